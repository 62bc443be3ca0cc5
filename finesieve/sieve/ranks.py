"""What several ranks have to agree on; with one process, nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist


class Agreement(Protocol):
    """Called exactly once per batch, in the same order on every rank.

    It may have a `rank`, an int: gates of ranks above 0 then roll dice of their own.
    """

    def mean(self, values: list[float]) -> list[float]:
        """Returns the mean over ranks, place by place. All ranks give lists of the same length."""
        ...


class Alone:
    """One process: what it says is agreed."""

    def mean(self, values: list[float]) -> list[float]:
        """Returns the values."""
        return values


class Ranks:
    """The ranks of a `torch.distributed` process group: one small all-reduce per batch.

    Args:
        group: the default group if None.
        device: where the group's backend wants its tensors; by default found from the backend: a
            GPU of this process's for nccl, the CPU for any other.
        used: returns the devices that this process's model is on. With nccl the first GPU among
            them is used. If there is none, it is the current GPU, and that is the same one in every
            process unless each has called `torch.cuda.set_device`.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        device: str | None = None,
        used: Callable[[], Sequence[torch.device]] = tuple,
    ) -> None:
        self._group, self._device, self._used = group, device, used

    @property
    def rank(self) -> int:
        """This process's place in the group; 0 before the group is there."""
        return dist.get_rank(self._group) if dist.is_initialized() else 0

    def mean(self, values: list[float]) -> list[float]:
        """Returns the mean over ranks, place by place."""
        if self._device is None:
            self._device = self._found() if "nccl" in str(dist.get_backend(self._group)) else "cpu"
        both = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(both, op=dist.ReduceOp.SUM, group=self._group)
        # One wait for the device, not one for each number.
        found: list[float] = (both / dist.get_world_size(self._group)).tolist()
        return found

    def _found(self) -> str:
        own = [device for device in self._used() if device.type == "cuda"]
        return str(own[0]) if own else f"cuda:{torch.cuda.current_device()}"
