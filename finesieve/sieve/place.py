"""Where in its data a pass is: a mark of the batch drawn last, to know its order again by."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from finesieve.batches.padding import Column, Columns
from finesieve.batches.rows import Rows
from finesieve.errors import StateError
from finesieve.gates.protocol import IntArray

_ALIKE = ("mask", "type_ids", "position_ids")  # columns that are much the same in all examples
_PLACES = 1024, 16  # at which a text, and each axis of an image, is looked at, at the least
_SAME = 0.5  # of a batch's examples, from where on it is the same batch


class Place:
    """Keeps a mark for each example of the batch drawn last.

    A mark is the example's id where the batches have a column of ids. Else it is a weighted sum of
    its whole numbers, computed when a state is saved: of every batch that would cost too much.

    Args:
        by_ids: whether there is a column of ids.
    """

    def __init__(self, by_ids: bool = False) -> None:
        self._by_ids = by_ids
        self._marks: Tensor | None = None  # int64[n]
        # Lengths and columns of which there are no marks yet.
        self._drawn: tuple[IntArray, list[Column]] | None = None

    def note(self, rows: Rows, given: bool) -> None:
        """Takes a batch as drawn.

        Args:
            rows: the batch.
            given: whether the training step is given it as it is, and may change it: then what
                tells its examples apart is copied.
        """
        if self._by_ids:
            self._marks = torch.from_numpy(rows.ids)
            return
        columns = _telling(rows.columns)
        if given:
            columns = [c.clone() if isinstance(c, Tensor) else list(c) for c in columns]
        self._drawn = rows.lengths, columns

    def state(self) -> Tensor | None:
        """Returns the marks, int64[n]; None before the first batch."""
        if self._drawn is not None:
            self._marks, self._drawn = _marks(*self._drawn), None
        return None if self._marks is None else self._marks.cpu()

    def take_up(self, marks: Tensor | None) -> None:
        """Remembers the marks that were saved."""
        self._marks, self._drawn = marks, None

    def check(self, rows: Rows, batches: int) -> None:
        """Compares the last batch left out of a resumed pass with the one drawn last before.

        Args:
            rows: the batch.
            batches: how many were left out, for the message.

        Raises:
            StateError: if most of its examples are others.
        """
        before = self.state()
        if before is None or len(rows) == 0:  # of an empty batch there is no mark
            return
        if self._by_ids:
            now = torch.from_numpy(rows.ids)
        else:
            now = _marks(rows.lengths, _telling(rows.columns)).cpu()
        if len(now) == len(before) and float((now == before).float().mean()) >= _SAME:
            return
        raise StateError(
            f"the interrupted pass had drawn {batches} batches, and batch {batches} of the loader "
            "has other examples now: it shuffles anew, so some examples would be trained on twice "
            "and others never. Give each pass an order that can be repeated (before each pass: "
            "generator.manual_seed(seed + sieve.passes), with DataLoader(shuffle=True, "
            "generator=generator)), or save between passes. If only the collate function draws "
            "random numbers, name a column of ids, id_key=, by which batches are compared then"
        )


def _telling(columns: Columns) -> list[Column]:
    """Returns the columns that tell examples apart: the tokens, most often; else all numbers, or
    all words where there are none."""
    for key, column in columns.items():
        if _is_whole(column) and column.ndim > 1 and not str(key).endswith(_ALIKE):
            return [_thinned(column)]
    tensors = [c for c in columns.values() if isinstance(c, Tensor)]
    numbers = [c for c in tensors if _is_whole(c)] or tensors
    return [_thinned(c) for c in numbers] or list(columns.values())


def _is_whole(column: Column) -> TypeGuard[Tensor]:
    """Returns whether this is a tensor of whole numbers."""
    return isinstance(column, Tensor) and not (column.is_floating_point() or column.is_complex())


def _thinned(column: Tensor) -> Tensor:
    """Returns a view of the numbers of each example, thinned out evenly where they are many."""
    least = _PLACES[column.ndim > 2]
    steps = [max(1, n // least) for n in column.shape[1:]]
    if all(step == 1 for step in steps):
        return column
    return column[(slice(None), *(slice(None, None, step) for step in steps))]


def _marks(lengths: IntArray, columns: Iterable[Column]) -> Tensor:
    """Returns int64[n], equal for equal examples and, but for rare chance, for no others."""
    marks = torch.from_numpy(lengths.copy())
    for column in columns:
        if isinstance(column, Tensor):
            numbers = column.float().view(torch.int32) if column.is_floating_point() else column
            flat = numbers.reshape(len(column), -1).long()
            by = torch.arange(1, 2 * flat.shape[1], 2, device=flat.device)
            marks = marks.to(flat.device) * 31 + (flat * by).sum(dim=1)
        else:
            marks = marks * 31 + torch.tensor([_word(x) for x in column])
    return marks


def _word(value: object) -> int:
    """Returns a number for a word, a number, or several of them; 0 for anything else."""
    if isinstance(value, str):
        return zlib.crc32(value.encode())
    if isinstance(value, int):
        return value
    if isinstance(value, Sequence):
        return sum(_word(part) for part in value)
    return 0
