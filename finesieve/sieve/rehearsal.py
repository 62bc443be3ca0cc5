"""A rehearsal of what happens once gates close, while they are still open.

Examples of different batches are put together then. That fails where batches differ in more than
their length: other columns, other kinds of values, nothing that says what is padding. So the first
batches that differ are put together as soon as they come, and the result is thrown away.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.codec import Codec
from finesieve.batches.concat import Kind, kind_of
from finesieve.batches.rows import Rows

Form = frozenset[tuple[Hashable, Kind]]


class Rehearsal:
    """Puts a batch together with the first one, if it differs from all that were tried.

    Args:
        codec: of the sieve.
        wanted: whether batches will ever be put together: whether the method filters.
    """

    def __init__(self, codec: Codec, wanted: bool) -> None:
        self._codec, self._wanted = codec, wanted
        self._forms: set[Form] = set()
        self._width: list[torch.Size] | None = (
            None  # of the first batch; None once another was tried
        )

    def see(self, first: Rows, rows: Rows) -> None:
        """Tries a batch as drawn.

        Args:
            first: examples of the first batch.
            rows: the batch.

        Raises:
            BatchError: if the two cannot be put together.
        """
        if not self._wanted or first is rows:
            return
        form = _form(rows)
        if not self._forms:
            self._forms, self._width = {_form(first)}, _width(rows)
        other_width = self._width is not None and _width(rows) != self._width
        if form in self._forms and not other_width:
            return
        self._forms.add(form)
        if other_width:
            self._width = None
        joined = self._codec.concat([first, rows])
        self._codec.pack(self._codec.take(joined, np.arange(len(joined))))


def _form(rows: Rows) -> Form:
    """Returns what batches must have in common, column by column."""
    return frozenset((key, kind_of(column)) for key, column in rows.columns.items())


def _width(rows: Rows) -> list[torch.Size]:
    """Returns how wide each column of tensors is."""
    return [c.shape[1:] for c in rows.columns.values() if isinstance(c, Tensor)]
