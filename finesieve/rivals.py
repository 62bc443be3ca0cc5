"""Gates of published rivals, as good as they can be, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from finesieve.errors import ConfigError, check_share
from finesieve.gates.dice import Dice
from finesieve.gates.protocol import FloatArray, Gate, IntArray, Offer, State, Verdict
from finesieve.gates.sampling import History, ThresholdSampling
from finesieve.stages.policy import Move, Stages, View


class SelectiveBackprop(Gate):
    """Keep an example with probability (its loss's percentile in recent history) ** beta.

    Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019
    (arXiv 1910.00762). Unweighted. As published: every example is scored, full batches are made
    of what is kept. Keeps 1 / (beta + 1) of a stream whose losses do not drift.

    beta: selectivity, positive. window: losses remembered.
    """

    def __init__(self, beta: float = 2.0, window: int = 1024, seed: int = 0) -> None:
        if not 0 < beta < 100:
            raise ConfigError(f"beta is {beta}; expected a positive exponent, e.g. 2")
        self.beta = float(beta)
        self._history = History(window)
        self._dice = Dice(seed, "selective backprop")

    def decide(self, offer: Offer) -> Verdict:
        loss = np.asarray(offer.need("loss", self))
        known = np.sort(self._history.values)
        if len(known) == 0:  # nothing to compare with yet
            return Verdict(np.ones(offer.n, dtype=np.bool_))
        percentile = np.searchsorted(known, loss, side="right") / len(known)
        return Verdict(self._dice.uniform(offer.n) < percentile**self.beta)

    def learn(self, offer: Offer) -> None:
        if offer.loss is not None:
            self._history.add(offer.loss)

    def state_dict(self) -> State:
        return {"history": self._history.state_dict(), "dice": self._dice.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history.load_state_dict(state["history"])
        self._dice.load_state_dict(state["dice"])


class TopLoss(Gate):
    """Keep the `share` of each pool with the highest losses; unweighted.

    Kawaguchi & Lu, "Ordered SGD", AISTATS 2020, with pools in place of their mini-batches.
    """

    def __init__(self, share: float) -> None:
        self.share = check_share("share", share)

    def decide(self, offer: Offer) -> Verdict:
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
        self._rule = ThresholdSampling(share, floor, seed)

    @property
    def _dice(self) -> Dice:
        return self._rule._dice

    def decide(self, offer: Offer) -> Verdict:
        loss = np.maximum(np.asarray(offer.need("loss", self)), 0.0)
        return self._rule.decide(replace(offer, size=loss))

    def state_dict(self) -> State:
        return self._rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rule.load_state_dict(state)


class Known:
    """The last known loss of each example, by its id. Grows with the examples, 8 to 100 bytes
    each: for data that are met more than once."""

    def __init__(self) -> None:
        self._loss: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._loss)

    def mean(self) -> float:
        return sum(self._loss.values()) / len(self._loss) if self._loss else float("nan")

    def of(self, ids: IntArray) -> FloatArray:
        """float32[n]; NaN where nothing is known."""
        nothing = float("nan")
        return np.asarray([self._loss.get(i, nothing) for i in ids.tolist()], dtype=np.float32)

    def add(self, ids: IntArray, loss: FloatArray) -> None:
        self._loss.update(zip(ids.tolist(), np.asarray(loss).tolist(), strict=True))

    def state_dict(self) -> State:
        return {
            "ids": torch.tensor(list(self._loss), dtype=torch.int64),
            "loss": torch.tensor(list(self._loss.values()), dtype=torch.float32),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loss = dict(zip(state["ids"].tolist(), state["loss"].tolist(), strict=True))


class InfoBatch(Gate):
    """Leave out a share of the examples whose last loss was below the mean; the others of those
    weigh 1 / (1 - share).

    Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024
    (arXiv 2303.04947). A forward gate; the losses are those of the training steps, nothing is
    scored. What has no known loss is kept, so the first pass is plain training. Needs ids that
    stay the same from pass to pass (`Sieve(id_key=...)`). Departs from the paper in that the mean
    is that of the losses known when a pool is decided on, not when the pass began.
    """

    def __init__(self, share: float = 0.5, seed: int = 0) -> None:
        self.share = check_share("share", share)
        if self.share == 1.0:
            raise ConfigError("share is 1.0; InfoBatch must keep some of the easy examples")
        self._known = Known()
        self._dice = Dice(seed, "infobatch")

    def decide(self, offer: Offer) -> Verdict:
        with np.errstate(invalid="ignore"):
            easy = self._known.of(offer.ids) < self._known.mean()
        p = np.where(easy, 1.0 - self.share, 1.0).astype(np.float32)
        return Verdict(self._dice.uniform(offer.n) < p, p)

    def learn(self, offer: Offer) -> None:
        if offer.loss is not None:
            self._known.add(offer.ids, offer.loss)

    def state_dict(self) -> State:
        return {"known": self._known.state_dict(), "dice": self._dice.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._known.load_state_dict(state["known"])
        self._dice.load_state_dict(state["dice"])


class Annealed(Stages):
    """The forward gate is closed from the first example on, and opens for good at a share of the
    stream: InfoBatch's last epochs on everything."""

    first = 3

    def __init__(self, until: float = 0.875) -> None:
        self.until = check_share("until", until)

    def evidence(self, view: View) -> list[float]:
        if np.isnan(view.share):
            raise ConfigError("InfoBatch anneals at a share of the stream: give the sieve `total`")
        return [view.share]

    def next(self, stage: int, numbers: list[float]) -> Move | None:
        if stage == 3 and numbers[0] >= self.until:
            return 1, f"{self.until:.1%} of the stream seen: the rest on everything"
        return None


class Reducible(Gate):
    """Keep the `share` of each pool with the highest reducible loss; unweighted.

    RHO-loss: Mindermann et al., "Prioritized Training on Points that are Learnable, Worth
    Learning, and Not Yet Learnt", ICML 2022 (arXiv 2206.07137). Reducible loss = loss minus
    irreducible loss, the loss of a reference model that was trained on held-out examples. Departs
    from the paper in choosing from pools instead of batches ten times as large as those trained on.

    irreducible: the reference model's loss by id; give it with `refer`. What it lacks counts as 0.
    """

    def __init__(self, share: float = 0.3) -> None:
        self.share = check_share("share", share)
        self._irreducible = Known()

    def refer(self, ids: IntArray, loss: FloatArray) -> None:
        """Take in the reference model's losses, once, before the first example."""
        self._irreducible.add(ids, loss)

    def decide(self, offer: Offer) -> Verdict:
        reducible = np.asarray(offer.need("loss", self)) - np.nan_to_num(
            self._irreducible.of(offer.ids)
        )
        keep = np.zeros(offer.n, dtype=np.bool_)
        keep[np.argsort(-reducible, kind="stable")[: round(self.share * offer.n)]] = True
        return Verdict(keep)

    def state_dict(self) -> State:
        return {"irreducible": self._irreducible.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._irreducible.load_state_dict(state["irreducible"])
