"""The two gates that look at nothing: everything goes on, or a random share does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finesieve.errors import check_share
from finesieve.gates.dice import Dice, strata
from finesieve.gates.protocol import Gate, Limits, Offer, State, Verdict


class Open(Gate):
    """Everything goes on, with weight 1."""

    def decide(self, offer: Offer) -> Verdict:
        """Keeps everything."""
        return Verdict(np.ones(offer.n, dtype=np.bool_))

    def limits(self) -> Limits:
        """Returns a share of 1."""
        return Limits(share=1.0)


class Random(Gate):
    """Each example goes on with the same probability, whatever it is.

    The rival that any selection must beat at equal total time.

    Args:
        share: that probability, where the offer asks for no other.
        systematic: of every label as many as expected, instead of independent rolls.
    """

    def __init__(self, share: float, seed: int = 0, systematic: bool = False) -> None:
        self.share, self.systematic = check_share("share", share), systematic
        self._dice = Dice(seed, "random")

    def decide(self, offer: Offer) -> Verdict:
        """Keeps a random share, the offer's or else the gate's own, with this probability for
        each."""
        share = self.share if offer.share is None else offer.share
        if self.systematic:
            keep = self._dice.systematic(np.full(offer.n, share), strata(offer))
        else:
            keep = self._dice.uniform(offer.n) < share
        return Verdict(keep, np.full(offer.n, share, dtype=np.float32))

    def limits(self) -> Limits:
        """Returns the gate's share."""
        return Limits(self.share)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"dice": self._dice.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._dice.load_state_dict(state["dice"])
