"""Every gate through every law, and broken gates that the laws must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import finesieve as fs
from finesieve import checks
from finesieve.gates import Dice, State

GATES: dict[str, Callable[[], fs.Gate]] = {
    "open": fs.Open,
    "random": lambda: fs.Random(0.3),
    "loss threshold": fs.LossThreshold,
    "fixed loss threshold": lambda: fs.LossThreshold(threshold=0.5),
    "quantile": lambda: fs.Quantile(0.2),
    "cut-off": fs.CutOff,
    "sampling": lambda: fs.ThresholdSampling(0.2),
    "sampling without floor": lambda: fs.ThresholdSampling(0.2, floor=0.0),
    "sampling by balance": lambda: fs.ThresholdSampling(None, cost_ratio=0.3),
    "sampling all": lambda: fs.ThresholdSampling(1.0),
    "regression + sampling": lambda: fs.PredictorGate(
        fs.SizeRegression(10), fs.ThresholdSampling(0.4, 0.1), audit=0.1
    ),
    "bayes + cut-off": lambda: fs.PredictorGate(fs.NaiveBayes(1024), fs.CutOff()),
}


@pytest.mark.parametrize("law", checks.LAWS.values(), ids=checks.LAWS.keys())
@pytest.mark.parametrize("factory", GATES.values(), ids=GATES.keys())
def test_every_gate_through_every_law(factory: Callable[[], fs.Gate], law: Callable) -> None:
    law(factory)


class Biased(fs.Gate):
    """Says 0.5, keeps 0.4."""

    def __init__(self) -> None:
        self._dice = Dice(0, "biased")

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        return fs.Verdict(self._dice.uniform(offer.n) < 0.4, np.full(offer.n, 0.5, np.float32))

    def state_dict(self) -> State:
        return self._dice.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._dice.load_state_dict(state)


class BiasedBehindAnother(Biased):
    """Right at the forward gate, wrong where examples come with a probability."""

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        share = 0.5 if offer.probability is None else 0.4
        return fs.Verdict(self._dice.uniform(offer.n) < share, np.full(offer.n, 0.5, np.float32))


class LearnsWhileDeciding(fs.Gate):
    def __init__(self) -> None:
        self.count = 0

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        self.count += offer.n
        return fs.Verdict(np.ones(offer.n, dtype=bool))

    def state_dict(self) -> State:
        return {"count": self.count}

    def load_state_dict(self, state: State) -> None:
        self.count = state["count"]


class Forgetful(fs.Gate):
    """Has memory, but does not save it."""

    def __init__(self) -> None:
        self.mean = 0.0

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        return fs.Verdict(offer.loss > self.mean)

    def learn(self, offer: fs.Offer) -> None:
        if offer.n:
            self.mean = float(offer.loss.mean())


class Scribbler(fs.Gate):
    def decide(self, offer: fs.Offer) -> fs.Verdict:
        offer.size[:] = 0
        return fs.Verdict(np.ones(offer.n, dtype=bool))


class WrongShape(fs.Gate):
    def decide(self, offer: fs.Offer) -> fs.Verdict:
        return fs.Verdict(np.ones(offer.n + 1, dtype=bool))


@pytest.mark.parametrize(
    ("gate", "law"),
    [
        (Biased, "law_unbiased"),
        (BiasedBehindAnother, "law_unbiased"),
        (LearnsWhileDeciding, "law_deciding_does_not_learn"),
        (Forgetful, "law_state_is_whole"),
        (Scribbler, "law_does_not_change_the_offer"),
    ],
)
def test_laws_catch_broken_gates(gate: type[fs.Gate], law: str) -> None:
    with pytest.raises(AssertionError):
        checks.LAWS[law](gate)
    with pytest.raises(AssertionError):
        checks.check_gate(gate)


def test_wrong_verdicts_are_named() -> None:
    with pytest.raises(fs.GateError, match=r"WrongShape.decide returned keep of shape"):
        checks.check_gate(WrongShape)
    with pytest.raises(fs.GateError, match="ThresholdSampling needs `size`"):
        fs.ThresholdSampling(0.2).decide(fs.Offer(np.arange(3)))


def test_audit_and_rule_are_independent() -> None:
    """Equal seeds must not make the audit a subset of what passes anyway."""
    gate = fs.PredictorGate(fs.SizeRegression(10), fs.Random(0.3), audit=0.3)
    offer = next(checks.sample_offers(n=4000))
    verdict = gate.decide(offer)
    assert verdict.audited is not None
    passed = verdict.keep.mean()
    assert abs(passed - (0.3 + 0.7 * 0.3)) < 0.04


def test_audit_passes_whatever_the_predictor_says() -> None:
    gate = fs.PredictorGate(fs.SizeRegression(10), fs.CutOff(1e9), audit=0.25)
    verdict = gate.decide(next(checks.sample_offers(n=4000)))
    assert verdict.audited is not None
    assert np.array_equal(verdict.keep, verdict.audited)
    assert 0.2 < verdict.keep.mean() < 0.3


def test_loss_threshold_by_hand() -> None:
    """Mean of the last 4 losses of stage 1, frozen after it."""
    gate = fs.LossThreshold(window=4)
    offer = fs.Offer(np.arange(6), stage=1, loss=np.asarray([9, 9, 1, 2, 3, 4], np.float32))
    assert gate.decide(offer).keep.all()  # nothing seen yet
    gate.learn(offer)
    assert gate.threshold == 2.5
    gate.learn(replace(offer, stage=2))
    assert gate.threshold == 2.5
    assert gate.decide(offer).keep.tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize("share", [0, -0.1, 1.5, 20, True, "half"])
def test_shares_outside_are_refused(share: object) -> None:
    with pytest.raises(fs.ConfigError, match=r"expected a share in \(0, 1\]"):
        fs.Random(share)


def test_two_gates_with_the_same_dice_are_refused() -> None:
    with pytest.raises(fs.ConfigError, match="same dice"):
        fs.Method("mine", fs.ThresholdSampling(0.5), fs.ThresholdSampling(0.5), fs.Fixed({}))


def test_seeds_differ_and_so_do_uses() -> None:
    first = Dice(0, "a").uniform(8)
    assert np.array_equal(first, Dice(0, "a").uniform(8))
    assert not np.array_equal(first, Dice(1, "a").uniform(8))
    assert not np.array_equal(first, Dice(0, "b").uniform(8))


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(fs.ConfigError, match="did you mean 'finesieve'"):
        fs.methods.build("fine-sieve")
    with pytest.raises(fs.ConfigError, match="trian"):
        fs.methods.build("finesieve", trian=0.2)
