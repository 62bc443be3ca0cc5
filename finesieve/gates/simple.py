"""The two gates that look at nothing: everything goes on, or a random share does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finesieve.errors import check_share
from finesieve.gates.dice import Dice, strata
from finesieve.gates.protocol import Gate, Offer, State, Verdict


class Open(Gate):
    """Everything goes on, with weight 1."""

    def decide(self, offer: Offer) -> Verdict:
        return Verdict(np.ones(offer.n, dtype=np.bool_))


class Random(Gate):
    """Each example goes on with the same probability `share`, whatever it is.

    The rival that any selection must beat at equal total time.

    systematic: of every label as many as expected, instead of independent rolls.
    """

    def __init__(self, share: float, seed: int = 0, systematic: bool = False) -> None:
        self.share, self.systematic = check_share("share", share), systematic
        self._dice = Dice(seed, "random")

    def decide(self, offer: Offer) -> Verdict:
        if self.systematic:
            keep = self._dice.systematic(np.full(offer.n, self.share), strata(offer))
        else:
            keep = self._dice.uniform(offer.n) < self.share
        return Verdict(keep, np.full(offer.n, self.share, dtype=np.float32))

    def state_dict(self) -> State:
        return {"dice": self._dice.state_dict(), "share": self.share}  # a policy may have moved it

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._dice.load_state_dict(state["dice"])
        self.share = state["share"]
