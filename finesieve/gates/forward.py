"""The forward gate: a predictor, the rule that acts on its predictions, and the audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finesieve.errors import check_share
from finesieve.gates.dice import Dice
from finesieve.gates.predictor import Predictor
from finesieve.gates.protocol import FloatArray, Gate, Limits, Offer, State, Verdict


class PredictorGate(Gate):
    """Let `rule` decide on predicted sizes instead of measured ones.

    Args:
        predictor: foresees the size (or the chance to be important) from features alone.
        rule: any gate that needs nothing but sizes, e.g. `ThresholdSampling` or `CutOff`.
        audit: the share of examples that pass whatever the predictor says, in [0, 1]. They are a
            fair sample of the stream, on which a predictor that has gone bad is found out. Where
            the rule weighs, the audit is part of the probability: q = audit + (1 - audit) * q_rule.
    """

    def __init__(
        self, predictor: Predictor, rule: Gate, audit: float = 0.02, seed: int = 0
    ) -> None:
        self.predictor, self.rule = predictor, rule
        self.audit = check_share("audit", audit, zero=True)
        self._dice = Dice(seed, "audit")

    def predict(self, offer: Offer) -> FloatArray:
        """Returns the predicted size of each offered example, or its chance to be kept,
        float32[n]."""
        return self.predictor.predict(offer)

    def look_ahead(self, offers: Sequence[Offer]) -> None:
        """Lets the predictor prepare for these offers."""
        self.predictor.look_ahead(offers)

    def decide(self, offer: Offer) -> Verdict:
        """Keeps what the rule keeps of the predicted sizes, and the audit besides: a random share
        of all. The probability, where the rule has one, is that of passing either way."""
        predicted = self.predict(offer) if offer.predicted is None else offer.predicted
        verdict = self.rule.decide(replace(offer, size=predicted, predicted=predicted))
        audited = self._dice.uniform(offer.n) < self.audit
        p = verdict.probability
        if p is not None:
            p = (self.audit + (1 - self.audit) * p).astype(np.float32)
        return Verdict(verdict.keep | audited, p, audited)

    def learn(self, offer: Offer) -> None:
        """Lets the predictor and the rule learn from losses or sizes that were revealed."""
        self.predictor.learn(offer)
        self.rule.learn(offer)

    def limits(self) -> Limits:
        """Returns the rule's limits, and the share of the audit."""
        return replace(self.rule.limits(), audit=self.audit)

    def shared(self) -> list[float]:
        """Returns the rule's numbers on which ranks must agree."""
        return self.rule.shared()

    def agree(self, values: list[float]) -> None:
        """Takes over the mean over ranks of what `shared` gave."""
        self.rule.agree(values)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "predictor": self.predictor.state_dict(),
            "rule": self.rule.state_dict(),
            "dice": self._dice.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.predictor.load_state_dict(state["predictor"])
        self.rule.load_state_dict(state["rule"])
        self._dice.load_state_dict(state["dice"])
