"""Seeded random generators, one for each part that draws, and the order to draw in."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.gates.protocol import BoolArray, Gate, IntArray, Offer, State


class Dice:
    """A random generator of one's own: seeded, saved, never the global one.

    Args:
        use: what it is for. Two parts with the same seed but another use roll independently.
    """

    def __init__(self, seed: int, use: str) -> None:
        self._name, self._rank = f"{use}:{seed}", 0
        self._seed(self._name)

    def _seed(self, name: str) -> None:
        # torch's CPU generator takes the low 32 bits of a seed and ignores the rest.
        self.origin = zlib.crc32(name.encode())
        self._generator = torch.Generator().manual_seed(self.origin)

    def for_rank(self, rank: int) -> None:
        """Starts anew with numbers of this rank's own; rank 0 has those of a single process."""
        if rank != self._rank:
            self._rank = rank
            self._seed(f"{self._name}:rank {rank}" if rank else self._name)

    def uniform(self, n: int) -> npt.NDArray[np.float64]:
        """Draws n numbers, float64[n] in [0, 1)."""
        return torch.rand(n, generator=self._generator, dtype=torch.float64).numpy()

    def systematic(self, p: npt.ArrayLike, order: IntArray) -> BoolArray:
        """Draws whom to keep: each with its probability p, and of neighbours in this order not many
        more or fewer than expected.

        The cumulative sum of p is marked off in steps of 1 from a start drawn in [0, 1); who has a
        mark is kept (Madow 1949). What lies between two neighbours of like gradients then adds
        almost nothing to the variance, whereas independent rolls also vary in how many are kept.

        Args:
            p: float[n] in [0, 1].
            order: int64[n], a permutation; it must not depend on these dice.

        Returns:
            bool[n].
        """
        chances = np.asarray(p, dtype=np.float64)
        keep = chances >= 1.0  # not left to the rounding of a sum
        doubtful = order[~keep[order]]
        marks = np.floor(np.cumsum(chances[doubtful]) - self.uniform(1)[0])
        marked = np.empty(len(marks), dtype=np.bool_)
        marked[:1] = marks[:1] > -1.0
        np.greater(marks[1:], marks[:-1], out=marked[1:])
        keep[doubtful] = marked
        return keep

    def permutation(self, n: int) -> IntArray:
        """Returns 0 to n - 1 in random order, int64[n]."""
        return torch.randperm(n, generator=self._generator).numpy()

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._generator.set_state(state["generator"])


def roll_apart(parts: Iterable[Any], rank: int) -> None:
    """Gives all dice in these gates, and in what the gates are made of, to one rank (see
    `Dice.for_rank`): with the same dice, ranks would keep the same places of their pools."""
    waiting, seen = list(parts), set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Dice):
            part.for_rank(rank)
        elif isinstance(part, Gate):
            waiting.extend(vars(part).values())


def strata(offer: Offer, sizes: npt.ArrayLike | None = None) -> IntArray:
    """Returns a permutation int64[n] that puts like gradients side by side: by label, then by size.

    Args:
        offer: its features, where it has some, hold the label.
        sizes: float[n]; without them the order drawn stands for it.
    """
    keys = [np.arange(offer.n) if sizes is None else np.asarray(sizes)]
    if offer.features is not None:
        keys.append(offer.features.cross)
    return np.lexsort(keys)
