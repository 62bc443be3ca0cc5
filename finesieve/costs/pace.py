"""What a token costs: seconds over tokens, without what does not belong to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

_SETTLING, _OUTLIER, _RECENT = 4, 4.0, 64


class Pace:
    """Seconds and tokens of one kind of work, batch by batch.

    Left out are the first batches (memory is allocated, kernels are chosen and compiled) and those
    that took four times the usual: the loop around them did something else, an evaluation say. A
    host may also take many batches at once and train on them after the last. So the usual is the
    median, or the upper quartile where most take next to nothing; and where what is left out
    would be nearly all of the time, nothing is.
    """

    def __init__(self) -> None:
        self._usual, self._all = [0.0, 0], [0.0, 0]  # seconds, tokens
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float, tokens: int) -> None:
        if tokens <= 0:
            return
        each, before = seconds / tokens, sorted(self._recent)
        self._recent.append(each)
        if len(before) < _SETTLING:
            return
        middle, high = before[len(before) // 2], before[3 * (len(before) - 1) // 4]
        usual = middle if middle > 0.1 * high else high
        for sums in (self._all, self._usual) if each <= _OUTLIER * usual else (self._all,):
            sums[0] += seconds
            sums[1] += tokens

    @property
    def sums(self) -> tuple[float, int]:
        """Seconds and tokens that count."""
        seconds, tokens = self._usual if self._usual[0] > 0.02 * self._all[0] else self._all
        return seconds, int(tokens)

    @property
    def per_token(self) -> float | None:
        """Seconds; None before there is a measurement."""
        seconds, tokens = self.sums
        return seconds / tokens if tokens and seconds > 0 else None

    def state_dict(self) -> dict[str, Any]:
        return {"usual": list(self._usual), "all": list(self._all), "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._usual, self._all = list(state["usual"]), list(state["all"])
        self._recent = deque(state["recent"], maxlen=_RECENT)
