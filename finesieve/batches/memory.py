"""Notices a loader that writes a batch into the memory of an earlier one."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from finesieve.batches.padding import Columns
from finesieve.errors import BatchError

_LOOKED_AT = 8  # batches after the first: loaders that reuse memory have a few buffers in turn


class Memory:
    """Keeps the first batch and a copy of it, and compares them when the next few come.

    A loop that trains on each batch before it takes the next may be given one buffer, filled anew
    each time. Examples that wait for a decision would become those of later batches, in silence.
    """

    def __init__(self) -> None:
        self._first: dict[Hashable, tuple[Tensor, Tensor]] | None = None
        self._left = _LOOKED_AT

    def see(self, columns: Columns) -> None:
        """Looks at a batch of the loader's as it comes.

        Raises:
            BatchError: if it was written into the memory of the first one.
        """
        if self._left == 0:
            return
        if self._first is None:
            self._first = {
                key: (column, column.detach().clone())
                for key, column in columns.items()
                if isinstance(column, Tensor) and column.layout == torch.strided
            }
            return
        for key, (held, copy) in self._first.items():
            now = columns.get(key)
            # The first batch is kept alive, so that its memory cannot be given to a later batch.
            if isinstance(now, Tensor) and now.layout == torch.strided:
                same = now.device == held.device and now.data_ptr() == held.data_ptr()
                if same and not torch.equal(_bytes(held), _bytes(copy)):
                    raise BatchError(
                        f"the loader has written column {key!r} of a batch into the memory of an "
                        "earlier batch, whose examples may still wait for the gates: let it make "
                        "new tensors, e.g. yield {k: v.clone() for k, v in batch.items()}"
                    )
        self._left -= 1
        if self._left == 0:
            self._first = {}


def _bytes(column: Tensor) -> Tensor:
    """Returns the bytes of a tensor, for comparing: NaN does not equal NaN, but its bytes do."""
    return column.contiguous().view(-1).view(torch.uint8)
