"""Which places of a batch's columns are real, which are padding, and what padding is made of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finesieve.errors import BatchError
from finesieve.gates.features import array_of
from finesieve.gates.protocol import IntArray, State

_PLACES = {"start_positions", "end_positions", "cls_index", "mc_token_ids"}
Column = Tensor | list[Any]
Columns = Mapping[Hashable, Column]


def text_mask(columns: Columns) -> Tensor | None:
    """Returns the attention mask, [n, length] or, for multiple choice, [n, choices, length].

    That is None where there is none, and for one that says which places see which, [n, length,
    length] or with more axes.
    """
    mask = columns.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3):
        return None
    choices = mask.ndim == 2 or any(
        isinstance(c, Tensor) and c is not mask and c.shape[:3] == mask.shape
        for c in columns.values()
    )
    return mask if choices else None


def _masks(columns: Columns) -> dict[str, Tensor]:
    """Returns the masks by what stands before `attention_mask` in their names: nothing, or, where
    there is none of that name, `sentence1_` and the like: several texts an example, each of its
    width."""
    plain = text_mask(columns)
    if plain is not None:
        return {"": plain}
    end = "attention_mask"
    return {
        k.removesuffix(end): v
        for k, v in columns.items()
        if isinstance(k, str) and k.endswith(end) and isinstance(v, Tensor) and v.ndim == 2
    }


class Text(NamedTuple):
    """One text of each example.

    Args:
        mask: [n, length] or [n, choices, length].
        padding: what stands in it where there is no text.
        keys: the columns with a place for every token of it.
    """

    mask: Tensor
    padding: int
    keys: list[Hashable]

    @property
    def real(self) -> Tensor:
        """Where there is text, bool, of the mask's shape."""
        return self.mask != self.padding


def _governing(key: Hashable, masks: Mapping[str, Tensor]) -> str | None:
    """Returns which mask speaks of this column: the name before it that fits and is longest; None
    if no name fits."""
    if "" in masks:  # then there is no other
        return ""
    fitting = [name for name in masks if not name or str(key).startswith(name)]
    return max(fitting, key=len, default=None)


def _of_examples(column: Tensor, padding: Tensor) -> bool:
    """Returns whether a column that is as wide as the text describes examples rather than tokens.

    A column that describes tokens holds one filling value wherever the text is padding. So the
    place that is padding most often is looked at: if the column's values differ there between
    examples, it describes the examples, and its width is the text's by chance.

    Args:
        column: [n, length, ...] or [n, choices, length, ...].
        padding: bool, of the mask's shape.
    """
    if padding.ndim != 2 or padding.shape[1] == 0:
        return False
    place = int(padding.sum(dim=0).argmax())  # the one that is padding most often
    values = column[padding[:, place], place]
    return bool((values != values[:1]).any())


class Padding:
    """Learns from the loader's batches how they are padded; cuts and pads as they are.

    Args:
        values: what to pad each column with. By default what stands where the mask is 0, and until
            such a place was seen 0 (-100 for `labels`).
    """

    def __init__(self, values: Mapping[Any, float] | None) -> None:
        self._given = dict(values or {})
        self._found: dict[Hashable, float] = {}
        self._left = False  # whether padding stands before the text
        self._apart: set[Hashable] = set()  # columns whose width was not the mask's at least once
        self._labels: tuple[int, bool] | None = None  # their width, and whether it ever differed

    # ---- learning from a batch

    def see(self, columns: Columns, n: int) -> IntArray:
        """Learns from a batch of the loader's; returns the real tokens of each example,
        int64[n]."""
        masks = _masks(columns)
        for key, value in columns.items():
            if key in self._apart or not isinstance(value, Tensor):
                continue
            name = _governing(key, masks)
            if name is not None and value.shape[: masks[name].ndim] != masks[name].shape:
                self._set_apart(key)
        labels = columns.get("labels")
        if (
            isinstance(labels, Tensor)
            and labels.ndim == 2
            and labels.is_floating_point()
            and "labels" not in self._given
        ):
            self._set_apart("labels")  # a value a class, as wide as the text by chance
        if isinstance(labels, Tensor) and labels.ndim == 2:
            width, differed = self._labels or (labels.shape[1], False)
            own = differed or width != labels.shape[1]
            if "labels" not in self._apart and self._beyond(labels, masks.get("")):
                own = True  # as wide as the input by chance, or because both are cut to one width
                for key in columns:
                    if key == "labels" or str(key).startswith("decoder_"):
                        self._set_apart(key)
            self._labels = labels.shape[1], own
        if not masks:
            for value in columns.values():
                if isinstance(value, Tensor) and value.ndim > 1:
                    return np.full(n, value.shape[1], dtype=np.int64)
            return np.ones(n, dtype=np.int64)
        found = [array_of(mask) != 0 for mask in masks.values()]  # read once, on any device
        texts = [
            self._real(real if real.ndim == 2 else np.asarray(real.any(axis=1))) for real in found
        ]
        total = texts[0] if len(texts) == 1 else np.sum(texts, axis=0)
        unknown = any(k not in self._found and k not in self._apart for k in columns)
        if self._labels is not None or (unknown and not all(real.all() for real in found)):
            for text in self.texts(columns):
                self._learn(columns, text)
        return total

    def _set_apart(self, key: Hashable) -> None:
        self._apart.add(key)
        self._found.pop(key, None)  # where the mask is 0 it may have had anything

    @staticmethod
    def _beyond(labels: Tensor, mask: Tensor | None) -> bool:
        """Returns whether targets stand where the input is padding: they are of another text
        (sequence to sequence). One value all over such places is padding too."""
        if mask is None or mask.shape != labels.shape or labels.is_floating_point():
            return False
        outside = labels[mask == 0]
        return bool((outside != -100).any()) and bool((outside != outside[0]).any())

    def _real(self, real: npt.NDArray[np.bool_]) -> IntArray:
        """Returns how many places each text takes, int64[n], and notes on which side padding
        stands.

        Args:
            real: bool[n, length], where there is text.
        """
        if real.shape[1] == 0:
            return np.zeros(len(real), dtype=np.int64)
        first = real[:, 0]
        if not self._left and not first.all() and (~first & real[:, -1]).any():
            self._left = True
        inner = real if self._left else real[:, ::-1]
        return np.asarray(real.shape[1] - inner.argmax(axis=1), dtype=np.int64)

    def _learn(self, columns: Columns, text: Text) -> None:
        unknown = [key for key in text.keys if key not in self._found]
        if not unknown:
            return
        padding = text.mask == text.padding
        if not bool(padding.any()):
            return
        for key in unknown:
            column = columns[key]
            assert isinstance(column, Tensor)
            if not str(key).endswith("position_ids") and _of_examples(column, padding):
                self._set_apart(key)
            else:
                self._found[key] = float(column[padding].flatten()[0])

    # ---- asking

    def texts(self, columns: Columns) -> list[Text]:
        """Return the texts that each example has, with the columns [n, length, ...] that have a
        place for every token, whatever the batch's width ([n, choices, length, ...] where the mask
        is [n, choices, length])."""
        masks = _masks(columns)
        texts = []
        for name, mask in masks.items():
            keys = [
                k
                for k, v in columns.items()
                if isinstance(v, Tensor)
                and v.shape[: mask.ndim] == mask.shape
                and k not in self._apart
                and _governing(k, masks) == name
            ]
            texts.append(Text(mask, 0, keys))
        labels = columns.get("labels")
        if (
            isinstance(labels, Tensor)
            and "labels" in self._apart
            and "labels" not in self._given
            and self._labels is not None
            and self._labels[1]
            and not labels.is_floating_point()
        ):  # sequence to sequence: the targets have a width of their own
            own = [
                k
                for k, v in columns.items()
                if str(k).startswith("decoder_")
                and isinstance(v, Tensor)
                and v.shape[:2] == labels.shape
            ]
            texts.append(Text(labels, -100, ["labels", *own]))
        return texts

    def check_places(self, columns: Columns) -> None:
        """Raises `BatchError` where cutting or padding on the left would move what columns point
        at."""
        at = sorted(_PLACES & {str(key) for key in columns}) if self._left else []
        if at:
            raise BatchError(
                f"{', '.join(at)} count places from the left, where the padding is: examples of "
                "other batches would move them. Pad on the right (tokenizer.padding_side)"
            )

    @staticmethod
    def check_mask(parts: Sequence[Columns]) -> None:
        """Raises `BatchError` for masks of several widths that say which places see which."""
        masks = [columns.get("attention_mask") for columns in parts]
        shapes = {tuple(mask.shape[1:]) for mask in masks if isinstance(mask, Tensor)}
        if len(shapes) > 1 and any(text_mask(columns) is None for columns in parts):
            raise BatchError(
                f"attention_mask came in shapes {sorted(shapes)}, which says what sees what and "
                "not what is padding: let the collate function give a mask [n, length] and make "
                "the larger one in the model's forward, or pad all batches to one length"
            )

    def value(self, key: Hashable) -> float:
        """Returns what this column is padded with."""
        if key in self._given:
            return float(self._given[key])
        return self._found.get(key, -100.0 if key == "labels" else 0.0)

    def width(self, real: Tensor) -> int:
        """Returns how many places the longest text needs, at least 1.

        Args:
            real: bool[n, length], where there is text.
        """
        used = real.any(dim=0).nonzero().flatten()
        if len(used) == 0:
            return min(1, real.shape[1])
        return real.shape[1] - int(used[0]) if self._left else int(used[-1]) + 1

    # ---- cutting and padding

    def inner(self, column: Tensor, axis: int, width: int) -> Tensor:
        """Returns a view of the `width` places along an axis at which text stands."""
        first = column.shape[axis] - width if self._left else 0
        return column.narrow(axis, first, width)

    def fitted(self, key: Hashable, column: Tensor, axis: int, width: int) -> Tensor:
        """Returns the column padded along an axis to this width, or cut where it is wider: only
        padding is lost."""
        kept = min(width, column.shape[axis])
        shape = list(column.shape)
        shape[axis] = width
        out = column.new_full(shape, self.value(key))
        self.inner(out, axis, kept).copy_(self.inner(column, axis, kept))
        return out

    def cat(self, key: Hashable, pieces: Sequence[Tensor], sequence: bool, axis: int) -> Tensor:
        """Returns the pieces one after another, padded along `axis` to the widest.

        Args:
            key: their column.
            sequence: whether a mask speaks of it.

        Raises:
            BatchError: where their shapes differ and nothing tells what to pad with.
        """
        # What a saved state held of frozen layers' output may lie elsewhere than what is new.
        pieces = [piece.to(pieces[-1].device) for piece in pieces]
        shapes = {tuple(p.shape[1:]) for p in pieces}
        if len(shapes) == 1:
            return torch.cat(pieces)
        if not sequence and key not in self._given:
            raise BatchError(
                f"column {key!r} came in shapes {sorted(shapes)} and without an attention_mask "
                f"nothing tells what to pad with: give pad_values={{{key!r}: ...}} (a mask whose "
                "ones are not one stretch of each row, at its beginning or end, tells nothing)"
            )
        if len({(*s[: axis - 1], *s[axis:]) for s in shapes}) > 1:
            raise BatchError(
                f"column {key!r} came in shapes {sorted(shapes)}; only the length "
                f"may differ, their dimension {axis}"
            )
        shape = [sum(map(len, pieces)), *pieces[0].shape[1:]]
        shape[axis] = max(p.shape[axis] for p in pieces)
        out = pieces[0].new_full(shape, self.value(key))
        at = 0
        for piece in pieces:
            self.inner(out.narrow(0, at, len(piece)), axis, piece.shape[axis]).copy_(piece)
            at += len(piece)
        return out

    # ---- state

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "found": dict(self._found),
            "left": self._left,
            "apart": list(self._apart),
            "labels": self._labels,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._found, self._left = dict(state["found"]), state["left"]
        self._apart, self._labels = set(state["apart"]), state["labels"]
