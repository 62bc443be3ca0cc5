"""Every gate through every law, and broken gates that the laws must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finesieve as fs
from finesieve import checks
from finesieve.gates import laws
from finesieve.gates.dice import Dice
from finesieve.gates.protocol import State

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
    "random, systematic": lambda: fs.Random(0.3, systematic=True),
    "sampling, each alone": lambda: fs.ThresholdSampling(0.2, systematic=False),
    "bayes + cut-off": lambda: fs.PredictorGate(fs.NaiveBayes(1024), fs.CutOff()),
}


@pytest.mark.parametrize("law", checks.LAWS.values(), ids=checks.LAWS.keys())
@pytest.mark.parametrize("factory", GATES.values(), ids=GATES.keys())
def test_every_gate_through_every_law(factory: Callable[[], fs.Gate], law: Callable) -> None:
    law(factory)


@pytest.mark.parametrize(
    "factory",
    [
        lambda share: fs.Random(share, systematic=True),
        lambda share: fs.ThresholdSampling(share, 0.02),
        lambda share: fs.PredictorGate(
            fs.SizeRegression(10), fs.ThresholdSampling(share, 0.02), audit=0.1
        ),
    ],
)
def test_a_share_that_is_offered_counts_and_the_gates_own_stays(
    factory: Callable[[float], fs.Gate],
) -> None:
    """Asked for another share, a gate decides as one that was made with it; and forgets it."""
    offer = next(checks.sample_offers(3))
    gate, other = factory(0.5), factory(0.25)
    before = gate.limits()
    asked, made = gate.decide(replace(offer, share=0.25)), other.decide(offer)
    np.testing.assert_array_equal(asked.keep, made.keep)
    np.testing.assert_array_equal(asked.probability, made.probability)
    assert gate.limits() == before != other.limits()
    again = gate.decide(offer).probability
    assert again.mean() > 1.5 * made.probability.mean()
    assert offer.take(np.arange(4)).share is None
    assert replace(offer, share=0.25).take(np.arange(4)).share == 0.25


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


def test_laws_hold_where_assertions_are_left_out() -> None:
    """As under `python -O`: the module of the laws is compiled without them."""

    class Bad(fs.Gate):
        def decide(self, offer: fs.Offer) -> fs.Verdict:
            return fs.Verdict(np.ones(offer.n, bool), np.full(offer.n, 0.5, np.float32))

    source = Path(laws.__file__).read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": laws.__name__}
    exec(compile(f"{source}\nassert False", laws.__file__, "exec", optimize=1), names)
    with pytest.raises(fs.LawError, match="the weighted sum is off by") as caught:
        names["LAWS"]["law_unbiased"](Bad)
    assert isinstance(caught.value, AssertionError)


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
        fs.methods.registry.build("fine-sieve")
    with pytest.raises(fs.ConfigError, match="trian"):
        fs.methods.registry.build("finesieve", trian=0.2)


# ---- systematic sampling


def test_systematic_sampling_keeps_each_with_its_probability() -> None:
    dice = Dice(3, "test")
    rng = np.random.default_rng(0)
    p = np.concatenate((rng.random(40) ** 2, [1.0, 1.0, 0.0]))
    order = rng.permutation(len(p))
    rolls = 20000
    kept = np.stack([dice.systematic(p, order) for _ in range(rolls)])
    assert kept[:, 40:42].all()  # what is certain is never lost to rounding
    assert not kept[:, 42].any()
    error = np.abs(kept.mean(axis=0) - p)
    assert (error < 5 * np.sqrt(p * (1 - p) / rolls) + 1e-12).all()
    counts = kept.sum(axis=1)
    assert set(counts) <= {int(np.floor(p.sum())), int(np.ceil(p.sum()))}


def test_systematic_sampling_keeps_of_every_stretch_what_is_expected() -> None:
    p = np.full(1000, 0.13)
    order = np.random.default_rng(1).permutation(1000)
    for seed in range(20):
        kept = Dice(seed, "test").systematic(p, order)[order]
        inside = np.add.reduceat(kept, np.arange(0, 1000, 100))
        assert set(inside) <= {12, 13, 14}
    assert Dice(0, "test").systematic(np.zeros(0), np.zeros(0, np.int64)).shape == (0,)


def clustered(n: int, alike: bool) -> tuple[fs.Offer, np.ndarray]:
    """Sizes, labels, and gradients of which both say much: as they are in a classifier. alike: of
    one size, as early in a training."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, n)
    size = rng.random(n).astype(np.float32) ** (0.0 if alike else 3.0) + 0.01
    direction = rng.normal(size=(4, 8))
    own = rng.normal(size=(n, 8)) * 0.3
    gradients = size[:, None] * (direction[labels] + own)
    features = fs.Features(np.zeros((n, 1), np.int64), labels.astype(np.int64))
    return fs.Offer(np.arange(n), features=features, size=size), gradients


@pytest.mark.parametrize("kind", ["threshold", "random"])
def test_it_has_less_variance_and_no_bias(kind: str) -> None:
    offer, gradients = clustered(400, alike=kind == "random")
    whole = gradients.sum(axis=0)

    def errors(systematic: bool) -> np.ndarray:
        gate = (
            fs.ThresholdSampling(0.2, 0.02, seed=7, systematic=systematic)
            if kind == "threshold"
            else fs.Random(0.2, 7, systematic)
        )
        out = []
        for _ in range(600):
            verdict = gate.decide(offer)
            assert verdict.probability is not None
            keep = verdict.keep
            out.append((gradients[keep] / verdict.probability[keep][:, None]).sum(axis=0) - whole)
        return np.stack(out)

    alone, together = errors(False), errors(True)
    spread = together.std(axis=0) / np.sqrt(len(together))
    assert (np.abs(together.mean(axis=0)) < 4.5 * spread).all()
    assert (together**2).sum() < 0.6 * (alone**2).sum()
