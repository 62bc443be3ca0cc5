"""Batches taken apart into examples and put together again; ids and weights ride inside."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.carry import IDS, WEIGHTS, Ride, TensorBatch, of_kind
from finesieve.batches.chooser import Chooser
from finesieve.batches.concat import concat
from finesieve.batches.device import to_device
from finesieve.batches.memory import Memory
from finesieve.batches.padding import Column, Columns, Padding, text_mask
from finesieve.batches.rows import Rows, as_drawn
from finesieve.errors import BatchError, StateError
from finesieve.gates.protocol import IntArray, State


class Codec:
    """Takes batches apart and puts rows together; learns the loader's form from its batches.

    Args:
        pad_values: what to pad each column with; by default as the loader pads (see `Padding`).
        id_key: the column that holds each example's own id; without it ids count the stream.
        lengths: batches that leave are padded to one of these lengths.
        memory: looks at the batches drawn.
    """

    def __init__(
        self,
        pad_values: Mapping[Any, float] | None = None,
        id_key: Hashable | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self._buckets = sorted(lengths or ())
        self._padding = Padding(pad_values)
        self._id_key = id_key
        self.memory = Memory()
        self._form: str | None = None
        self._pinned = False  # whether the loader's tensors lie in pinned memory
        self._type: type[Any] = dict
        self._constants: dict[Hashable, Any] = {}  # what is the same in all batches

    @property
    def has_ids(self) -> bool:
        """Whether a column holds each example's own id."""
        return self._id_key is not None

    # ---- apart

    def note(self, batch: Any) -> None:
        """Learns the batch's form.

        Raises:
            BatchError: if it differs from the earlier batches' form, or is none that can be taken
                apart.
        """
        if isinstance(batch, Tensor):
            form = "tensor"
        elif isinstance(batch, Mapping):
            form = "dict"
            self._type = type(batch)
        elif isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
            form = type(batch).__name__
        else:
            raise BatchError(
                f"a batch of type {type(batch).__name__}; expected a dict or other mapping, a "
                "tuple or list, or a single tensor. If the loader yields single examples, give it "
                "a batch size"
            )
        if self._form not in (None, form):
            raise BatchError(f"the loader yielded a {self._form} before and a {form} now")
        self._form = form

    def unpack(self, batch: Any, first_id: int) -> Rows:
        """Returns a batch of the loader's as rows, numbered from `first_id` on unless they have ids
        of their own.

        Raises:
            BatchError: for a batch that cannot be taken apart.
        """
        self.note(batch)
        columns: dict[Hashable, Column]
        if isinstance(batch, Tensor):
            columns = {0: batch}
        elif isinstance(batch, Mapping):
            columns = dict(batch)
        else:
            columns = dict(enumerate(batch))
        if not columns:
            raise BatchError("an empty batch: it has no columns")
        n = -1
        if isinstance(batch, Mapping):
            self._set_constants_aside(columns)
        for key, value in columns.items():
            if isinstance(value, Tensor) and value.ndim > 0:
                size = value.shape[0]
            elif isinstance(value, Sequence) and not isinstance(value, str):
                columns[key] = list(value)
                size = len(value)
            elif isinstance(value, Mapping):
                raise BatchError(
                    f"column {key!r} is a {type(value).__name__} of columns itself: let the "
                    f"collate function name them {', '.join(f'{key}_{k}' for k in value)}, and put "
                    "them together again in the model's forward or the function for the losses "
                    f"(columns `{key}_...` are cut by the mask `{key}_attention_mask`)"
                )
            else:
                array = isinstance(value, np.ndarray) and value.ndim > 0
                what = "" if array else " without a batch dimension"
                how = "make it one" if array else "drop it"
                raise BatchError(
                    f"column {key!r} is a {type(value).__name__}{what}; expected a tensor [n, ...] "
                    f"or a list of n: {how} in the collate function"
                )
            if n not in (-1, size):
                raise BatchError(f"column {key!r} has {size} rows, but others have {n}")
            n = size
        if self._id_key is None:
            ids = np.arange(first_id, first_id + n, dtype=np.int64)
        else:
            if self._id_key not in columns:
                raise BatchError(f"id_key={self._id_key!r} is no column; there are {list(columns)}")
            ids = _whole(columns[self._id_key], self._id_key)
        self._pinned = any(_is_pinned(value) for value in columns.values())
        lengths = self._padding.see(columns, n)
        return Rows(columns, lengths, ids, *as_drawn(n))

    @staticmethod
    def place_like(rows: Rows, batch: Any) -> None:
        """Moves the rows' columns to the devices on which a batch of the loader's has them."""
        if isinstance(batch, Tensor):
            columns: Mapping[Any, Any] = {0: batch}
        else:
            columns = batch if isinstance(batch, Mapping) else dict(enumerate(batch))
        for key, column in rows.columns.items():
            like = columns.get(key)
            if isinstance(column, Tensor) and isinstance(like, Tensor):
                rows.columns[key] = column.to(like.device)

    def _set_constants_aside(self, columns: dict[Hashable, Column]) -> None:
        """Takes out of the columns each word, number or None that is the same in every batch: it is
        not about the batch's examples.

        Raises:
            BatchError: if one of them has changed since an earlier batch.
        """
        for key in [k for k, v in columns.items() if _is_constant(v)]:
            value: Any = columns.pop(key)
            if self._constants.setdefault(key, value) != value:
                raise BatchError(
                    f"column {key!r} is {value!r} and was {self._constants[key]!r} in an earlier "
                    "batch: examples of different batches are put together, so it must be the "
                    "same in all, or a list of n"
                )

    # ---- together

    def take(self, rows: Rows, index: IntArray) -> Rows:
        """Return the chosen rows, in this order, cut to the longest of them: one copy of each."""
        return self.chooser(rows)(index)

    def chooser(self, rows: Rows) -> Chooser:
        """Return what takes from these rows as `take` does, for many choices from the same rows."""
        return Chooser(self._padding, rows)

    def place(
        self, rows: Rows, column: Tensor | None, n: int, index: IntArray, part: Tensor
    ) -> Tensor:
        """Puts a part into a column for some of the rows; the column is made at the first part.

        Args:
            rows: tell how long a text is.
            column: float[n, length, width], 0 where nothing stands yet; None at first.
            n: how many of the rows there is a place for.
            index: int64[m], places in the column.
            part: float[m or more, at most length, width].

        Raises:
            BatchError: for batches without an `attention_mask` [n, length].
        """
        mask = text_mask(rows.columns)
        if mask is None or mask.ndim != 2:
            raise BatchError(
                "frozen layers' output can be shared in batches with an "
                "`attention_mask` [n, length] only; there is none"
            )
        if column is None:
            column = part.new_zeros((n, mask.shape[1], part.shape[2]))
        width = min(part.shape[1], column.shape[1])  # a part may be padded to one of `lengths`
        where, part = to_device(torch.from_numpy(index), column.device), part[: len(index)]
        self._padding.inner(column, 1, width)[where] = self._padding.inner(part, 1, width)
        return column

    def add_placed(self, rows: Rows, key: str, column: Tensor, index: IntArray) -> None:
        """Gives the rows a column made of what `place` made.

        Args:
            rows: get the column under `key`, cut to their longest text.
            index: int64[len(rows)], their places in it.
        """
        mask = text_mask(rows.columns)
        assert mask is not None
        where = to_device(torch.from_numpy(index), column.device)
        inner = self._padding.inner(column, 1, mask.shape[1])
        rows.columns[key] = inner.index_select(0, where)

    def fitted(self, columns: Columns) -> Columns:
        """Returns the columns padded to one of `lengths`, if there are any.

        Raises:
            BatchError: if an example is longer than all of them, or nothing says what is padding.
        """
        if not self._buckets or not all(map(len, columns.values())):
            return columns
        texts = self._padding.texts(columns)
        if not texts:
            raise BatchError(
                "lengths=... needs an `attention_mask` in the batches, which says "
                "what is padding; there is none"
            )
        columns = dict(columns)
        for text in texts:
            longest = self._padding.width(text.real.reshape(-1, text.mask.shape[-1]))
            width = next((b for b in self._buckets if b >= longest), None)
            if width is None:
                raise BatchError(
                    f"an example has {longest} tokens, but the longest of lengths="
                    f"{self._buckets} is {self._buckets[-1]}: add a longer one, or "
                    "cut the texts"
                )
            for key in text.keys:
                column = columns[key]
                assert isinstance(column, Tensor)
                columns[key] = self._padding.fitted(key, column, text.mask.ndim - 1, width)
        return columns

    def filler(self, rows: Rows) -> Rows:
        """Returns one or two of the rows (one may be too few for a normalisation over the batch),
        of weight 0 and no id (-1), that stand for nothing drawn."""
        made = self.take(rows, np.arange(min(2, len(rows))))
        made.ids[:], made.weights[:], made.spans[:] = -1, 0.0, 0.0
        return made

    def concat(self, parts: Sequence[Rows]) -> Rows:
        """Returns the rows of all parts, one after another, padded to the widest.

        Raises:
            BatchError: where the parts have other columns or other kinds of values.
        """
        return concat(self._padding, parts)

    def bare(self, rows: Rows) -> Any:
        """Return the rows as a batch of the loader's form, nothing riding."""
        return self._batch(rows.columns)

    def _batch(self, columns: Columns, **riding: Tensor) -> Any:
        """Returns the columns as a batch of the loader's form.

        Args:
            riding: what a mapping has besides.
        """
        if self._form == "tensor":
            return columns[0]
        if self._form == "tuple":
            return tuple(columns[i] for i in range(len(columns)))
        if self._form == "list":
            return [columns[i] for i in range(len(columns))]
        return of_kind(self._type, {**columns, **self._constants, **riding})

    @property
    def buckets(self) -> list[int]:
        """The lengths to pad to; empty if a batch is as long as its longest example."""
        return self._buckets

    def for_model(self, columns: Columns) -> Any:
        """Return a batch as `bare` does, without the column of ids, which no model expects."""
        columns = self._as_pinned(self.fitted(columns))
        if self._id_key is None or self._form == "tensor":
            return self._batch(columns)
        columns = {k: v for k, v in columns.items() if k != self._id_key}
        if self._form in ("tuple", "list"):
            columns = dict(enumerate(columns.values()))
        return self._batch(columns)

    def pack(self, rows: Rows) -> Any:
        """Return the rows as a batch of the loader's form, with ids and weights inside."""
        ids, weights = torch.from_numpy(rows.ids.copy()), torch.from_numpy(rows.weights.copy())
        columns = self._as_pinned(self.fitted(rows.columns))
        if self._form == "tensor":
            return TensorBatch(self._batch(columns), ids, weights)
        if self._form == "tuple":
            return (*self._batch(columns), Ride(ids, weights))
        if self._form == "list":
            return [*self._batch(columns), Ride(ids, weights)]
        for key in (IDS, WEIGHTS):
            if key in columns:
                raise BatchError(
                    f"the loader's batches already have a column {key!r}: is the "
                    "loader wrapped in two sieves?"
                )
        return self._batch(columns, **{IDS: ids, WEIGHTS: weights})

    def _as_pinned(self, columns: Columns) -> Columns:
        """Returns the columns in pinned memory, if the loader's batches were in pinned memory.

        Rows that were selected from several batches lie in ordinary memory, from which a copy to a
        GPU makes the program wait."""
        if not self._pinned:
            return columns
        return {
            key: value.pin_memory() if isinstance(value, Tensor) and value.is_cpu else value
            for key, value in columns.items()
        }

    # ---- state

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "form": self._form,
            "padding": self._padding.state_dict(),
            "constants": dict(self._constants),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        if self._form not in (None, state["form"]):
            raise StateError(
                f"the state is of {state['form']} batches, the loader's are {self._form}"
            )
        self._form, self._constants = state["form"], dict(state["constants"])
        self._padding.load_state_dict(state["padding"])


def _is_pinned(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cpu and value.is_pinned()


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float))


def _whole(column: Column, key: Hashable) -> IntArray:
    """Returns a column of ids as int64[n].

    Raises:
        BatchError: for anything but a whole number for each example.
    """
    try:
        found = torch.as_tensor(column)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.ndim != 1 or found.is_floating_point() or found.is_complex():
        what = (
            type(column[0]).__name__
            if found is None
            else (f"{found.dtype} of shape {tuple(found.shape)}")
        )
        raise BatchError(
            f"id_key={key!r} holds {what}; expected a whole number for each example: number the "
            "examples, e.g. data.add_column('id', range(len(data)))"
        )
    return found.cpu().numpy().astype(np.int64)
