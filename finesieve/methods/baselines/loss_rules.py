"""Baselines that choose by the loss of each example alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.errors import ConfigError, check_share
from finesieve.gates.dice import Dice
from finesieve.gates.protocol import Gate, Offer, State, Verdict
from finesieve.gates.sampling import Array, ThresholdSampling


class History:
    """The last `window` values, in order. Plain numpy; saved as a tensor."""

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ConfigError(f"window is {window}; expected at least 1 value to remember")
        self.window = window
        self.values: Array = np.empty(0, dtype=np.float64)

    def add(self, values: npt.ArrayLike) -> None:
        """Takes in losses; the oldest ones go."""
        both = np.concatenate((self.values, np.asarray(values, dtype=np.float64)))
        self.values = both[-self.window :]

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"values": torch.from_numpy(self.values.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.values = state["values"].numpy().copy()


class Quantile(Gate):
    """Keep the `share` of examples with the highest loss, against a moving history; unweighted.

    Here for comparison. Nothing brings back the easy examples that anchor the model: measured, it
    can fall to chance. The sieve warns when it does (`CollapseWarning`).
    """

    def __init__(self, share: float, window: int = 1024) -> None:
        self.share, self.window = check_share("share", share), window
        self._history = History(window)

    def decide(self, offer: Offer) -> Verdict:
        """Keeps losses at or above the quantile of those remembered; of the pool's own before any
        are.

        Raises:
            GateError: for an offer without losses.
        """
        loss = np.asarray(offer.need("loss", self))
        known = self._history.values
        cut = np.quantile(known if len(known) else loss, 1.0 - self.share)
        return Verdict(loss >= cut, threshold=float(cut))

    def learn(self, offer: Offer) -> None:
        """Remembers the losses."""
        if offer.loss is not None:
            self._history.add(offer.loss)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"history": self._history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._history.load_state_dict(state["history"])


class SelectiveBackprop(Gate):
    """Keeps an example with probability (its loss's percentile in recent history) ** beta;
    unweighted.

    Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019 (arXiv
    1910.00762). As published: every example is scored, full batches are made of what is kept. It
    keeps 1 / (beta + 1) of a stream whose losses do not drift.

    Args:
        beta: selectivity, positive.
        window: losses remembered.
        seed: of the dice.
    """

    def __init__(self, beta: float = 2.0, window: int = 1024, seed: int = 0) -> None:
        if not 0 < beta < 100:
            raise ConfigError(f"beta is {beta}; expected a positive exponent, e.g. 2")
        self.beta = float(beta)
        self._history = History(window)
        self._dice = Dice(seed, "selective backprop")

    def decide(self, offer: Offer) -> Verdict:
        """Keeps each example with probability percentile ** beta; everything before any loss is
        remembered.

        Raises:
            GateError: for an offer without losses.
        """
        loss = np.asarray(offer.need("loss", self))
        known = np.sort(self._history.values)
        if len(known) == 0:  # nothing to compare with yet
            return Verdict(np.ones(offer.n, dtype=np.bool_))
        percentile = np.searchsorted(known, loss, side="right") / len(known)
        return Verdict(self._dice.uniform(offer.n) < percentile**self.beta)

    def learn(self, offer: Offer) -> None:
        """Remembers the losses."""
        if offer.loss is not None:
            self._history.add(offer.loss)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"history": self._history.state_dict(), "dice": self._dice.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._history.load_state_dict(state["history"])
        self._dice.load_state_dict(state["dice"])


class TopLoss(Gate):
    """Keep the `share` of each pool with the highest losses; unweighted.

    Kawaguchi & Lu, "Ordered SGD", AISTATS 2020, with pools in place of their mini-batches.
    """

    def __init__(self, share: float) -> None:
        self.share = check_share("share", share)

    def decide(self, offer: Offer) -> Verdict:
        """Keeps `round(share * n)` of the pool's n examples, those of the highest losses.

        Raises:
            GateError: for an offer without losses.
        """
        loss = np.asarray(offer.need("loss", self))
        keep = np.zeros(offer.n, dtype=np.bool_)
        keep[np.argsort(-loss, kind="stable")[: round(self.share * offer.n)]] = True
        return Verdict(keep)


class LossSampling(Gate):
    """Keep an example with a probability in proportion to its loss, and weigh it by the inverse.

    As `TopLoss`, but unbiased: importance sampling by loss (Katharopoulos & Fleuret, ICML 2018,
    compare it with the gradient's norm).
    """

    def __init__(self, share: float, floor: float = 0.05, seed: int = 0) -> None:
        self._rule = ThresholdSampling(share, floor, seed, systematic=False)

    @property
    def _dice(self) -> Dice:
        return self._rule._dice

    def decide(self, offer: Offer) -> Verdict:
        """Keeps each example with a probability in proportion to its loss.

        Raises:
            GateError: for an offer without losses.
        """
        loss = np.maximum(np.asarray(offer.need("loss", self)), 0.0)
        return self._rule.decide(replace(offer, size=loss))

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return self._rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._rule.load_state_dict(state)
