"""The costs that the sieve goes by: measured ones, followed in coarse steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from finesieve.gates.protocol import COST_RATIO, SURVIVOR, State


def followed(value: float, found: float | None, step: float) -> float:
    """`found` in powers of `step`, if it is further than a step from `value`: a clock is never
    twice the same, and what is decided should be."""
    if found is None or abs(math.log(found / value)) <= math.log(step):
        return value
    return float(step ** round(math.log(found, step)))


class Costs:
    """What the sieve goes by: measured costs, followed in coarse steps.

    score, train: to score a token, and to train on one while gates are closed, over plain
    training's. ratio: of the two.
    """

    def __init__(self) -> None:
        self.score, self.train = COST_RATIO, SURVIVOR

    @property
    def ratio(self) -> float:
        return self.score / self.train

    def follow(self, score: float | None, train: float | None) -> None:
        """Take in what was measured; None: nothing yet."""
        self.score, self.train = followed(self.score, score, 1.1), followed(self.train, train, 1.1)

    def state_dict(self) -> State:
        return {"score": self.score, "train": self.train}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score, self.train = state["score"], state["train"]
