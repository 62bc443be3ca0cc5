"""What a token costs: seconds over tokens, without what does not belong to them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from finesieve.gates import State

_SETTLING, _OUTLIER, _RECENT = 4, 4.0, 32


class Pace:
    """Seconds and tokens of one kind of work, batch by batch.

    Left out are the first batches (memory is allocated, kernels are chosen and compiled) and those
    that took four times the usual: the loop around them did something else, an evaluation say.
    """

    def __init__(self) -> None:
        self.seconds, self.tokens = 0.0, 0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float, tokens: int) -> None:
        if tokens <= 0:
            return
        each = seconds / tokens
        usual = median(self._recent) if len(self._recent) >= _SETTLING else None
        self._recent.append(each)
        if usual is not None and each <= _OUTLIER * usual:
            self.seconds += seconds
            self.tokens += tokens

    @property
    def per_token(self) -> float | None:
        """Seconds; None before there is a measurement."""
        return self.seconds / self.tokens if self.tokens and self.seconds > 0 else None

    def state_dict(self) -> State:
        return {"seconds": self.seconds, "tokens": self.tokens, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seconds, self.tokens = state["seconds"], state["tokens"]
        self._recent = deque(state["recent"], maxlen=_RECENT)


def followed(value: float, found: float | None, step: float) -> float:
    """`found` in powers of `step`, if it is further than a step from `value`: a clock is never
    twice the same, and what is decided should be."""
    if found is None or abs(math.log(found / value)) <= math.log(step):
        return value
    return float(step ** round(math.log(found, step)))
