"""Rows taken from others by their places, cut to the longest text that is taken."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from finesieve.batches.device import to_device
from finesieve.batches.padding import Column, Padding, text_mask
from finesieve.batches.rows import Rows
from finesieve.gates.protocol import IntArray


class Chooser:
    """Takes rows from the same rows many times: what is the same each time is found once.

    Args:
        padding: tells where text stands.
        rows: to take from.

    Raises:
        BatchError: where cutting would move what columns point at.
    """

    def __init__(self, padding: Padding, rows: Rows) -> None:
        padding.check_places(rows.columns)
        self._padding, self._rows = padding, rows
        self._texts = padding.texts(rows.columns)
        self._plain = text_mask(rows.columns) is not None
        text = {key: i for i, one in enumerate(self._texts) for key in one.keys}
        self._sources = [(key, column, text.get(key)) for key, column in rows.columns.items()]

    def columns(self, index: IntArray, longest: int) -> dict[Hashable, Column]:
        """Returns the columns of the rows at these places, in this order: one copy of each.

        Args:
            index: int64[m].
            longest: real tokens of the longest of them.
        """
        here = torch.from_numpy(index)
        there: dict[torch.device, Tensor] = {}  # the index, on each device
        widths = [
            longest
            if self._plain and i == 0
            else self._padding.width(text.real[here.to(text.mask.device)])
            for i, text in enumerate(self._texts)
        ]
        columns: dict[Hashable, Column] = {}
        for key, column, text in self._sources:
            if isinstance(column, list):
                columns[key] = [column[i] for i in index]
                continue
            if text is not None:
                axis = self._texts[text].mask.ndim - 1
                if widths[text] != column.shape[axis]:
                    column = self._padding.inner(column, axis, widths[text])
            where = here
            if not column.is_cpu:
                if column.device not in there:
                    there[column.device] = to_device(here, column.device)
                where = there[column.device]
            columns[key] = column.index_select(0, where)
        return columns

    def __call__(self, index: IntArray) -> Rows:
        """Returns the rows at these places, int64[m], in this order: one copy of each."""
        rows = self._rows
        lengths = rows.lengths[index]
        longest = int(lengths.max()) if len(index) else 0
        columns = self.columns(index, longest)
        return Rows(columns, lengths, rows.ids[index], rows.weights[index], rows.spans[index])
