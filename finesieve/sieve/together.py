"""What the ranks settle together once a batch: whether any has one left, and when gates move.

So all ranks end a pass together, when none has anything left, and their gates close and open at
the same batch. With one process all of it is that process's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from finesieve.errors import BatchError
from finesieve.gates.protocol import Gate
from finesieve.sieve.ranks import Agreement, Alone, Ranks


class Settled(NamedTuple):
    """What holds for all ranks.

    Args:
        ready: whether any of them has a batch.
        consumed: mean share of the stream, 0 to 1.
        evidence: of the policy of stages, averaged.
    """

    ready: bool
    consumed: float
    evidence: list[float]


class Together:
    """Asks the other ranks, through the agreement that is given or found.

    Args:
        agreement: None to find the ranks of `torch.distributed`; `Alone()` for a process that does
            not train together with them.
        used: gives the devices of this process's model (see `Ranks`).
    """

    def __init__(
        self,
        agreement: Agreement | None,
        used: Callable[[], Sequence[torch.device]] = tuple,
    ) -> None:
        self._used = used
        self._agreement: Agreement = agreement or Alone()
        self._told = agreement is not None

    def find(self) -> None:
        """Agrees from now on with the other ranks of `torch.distributed`, if there are any, unless
        told how to. A process group may be made after the sieve."""
        dist = torch.distributed
        if self._told or not (dist.is_available() and dist.is_initialized()):
            return
        self._told = True
        if dist.get_world_size() > 1:
            self._agreement = Ranks(used=self._used)

    @property
    def several(self) -> bool:
        """Whether there are other ranks, as far as is known."""
        return not isinstance(self._agreement, Alone)

    @property
    def rank(self) -> int:
        """This process's place among the ranks; 0 where the agreement does not say."""
        return getattr(self._agreement, "rank", 0)

    def mean(self, values: list[float]) -> list[float]:
        """Returns the mean over ranks, place by place. All ranks give lists of the same length."""
        return self._agreement.mean(values)

    def settle(
        self,
        *,
        ready: bool,
        empty: bool,
        consumed: float,
        evidence: list[float],
        gates: Sequence[Gate],
    ) -> Settled:
        """Returns what holds for all ranks, and gives the gates what they share averaged. Once a
        batch, on every rank.

        Args:
            ready: whether this rank has a batch.
            empty: whether it never had an example, so that it cannot even make a filler.
            consumed: its share of the stream, 0 to 1.
            evidence: its own, of the policy of stages.
            gates: its own.

        Raises:
            BatchError: on all ranks, so that none waits for another, if one is empty and another
                is not.
        """
        shared = [gate.shared() for gate in gates]
        numbers = [float(ready), float(empty), consumed, *evidence]
        at = len(numbers)
        for values in shared:
            numbers += values
        numbers = self.mean(numbers)
        if numbers[0] > 0.0 and numbers[1] > 0.0:
            raise BatchError(
                "a rank's part of the data has no example at all, and others have "
                "some: give each rank a part of its own"
            )
        settled = Settled(numbers[0] > 0.0, numbers[2], numbers[3:at])
        for gate, values in zip(gates, shared, strict=True):
            gate.agree(numbers[at : at + len(values)])
            at += len(values)
        return settled
