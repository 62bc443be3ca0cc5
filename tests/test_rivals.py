"""Rivals' gates: each against its definition; all of them through the laws."""

from __future__ import annotations

import numpy as np
import pytest

from finesieve import ConfigError, Gate, Method, Offer, checks, methods
from finesieve.rivals import LossSampling, SelectiveBackprop, TopLoss

GATES = {
    "selective": lambda: SelectiveBackprop(2.0),
    "top": lambda: TopLoss(0.3),
    "sampling": lambda: LossSampling(0.3),
}


def offer(loss: np.ndarray) -> Offer:
    return Offer(np.arange(len(loss)), loss=loss.astype(np.float32), size=np.ones(len(loss)))


@pytest.mark.parametrize("law", checks.LAWS)
@pytest.mark.parametrize("name", GATES)
def test_every_law(law: str, name: str) -> None:
    checks.LAWS[law](GATES[name])


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_selective_backprop_keeps_percentile_to_the_beta(beta: float) -> None:
    """Against the definition, percentile by percentile, over many decisions."""
    gate: Gate = SelectiveBackprop(beta, window=500)
    history = np.random.default_rng(0).random(700)
    gate.learn(offer(history))
    known = history[-500:].astype(np.float32)
    asked = np.asarray([0.1, 0.5, 0.9, 2.0])
    kept = np.mean([gate.decide(offer(asked)).keep for _ in range(3000)], axis=0)
    naive = [float(np.mean(known <= x)) ** beta for x in asked.astype(np.float32)]
    assert np.allclose(kept, naive, atol=0.04)


def test_selective_backprop_keeps_one_in_beta_plus_one() -> None:
    gate = SelectiveBackprop(2.0)
    dice = np.random.default_rng(1)
    kept = []
    for _ in range(60):
        pool = offer(dice.random(256))
        kept.append(gate.decide(pool).keep.mean())
        gate.learn(pool)
    assert kept[0] == 1.0  # no history yet
    assert np.mean(kept[10:]) == pytest.approx(1 / 3, abs=0.02)


def test_top_loss_keeps_the_highest() -> None:
    loss = np.random.default_rng(2).random(100)
    keep = TopLoss(0.25).decide(offer(loss)).keep
    assert keep.sum() == 25
    assert loss[keep].min() > loss[~keep].max()
    assert TopLoss(0.5).decide(offer(np.zeros(4))).keep.sum() == 2  # ties


def test_loss_sampling_goes_by_the_loss_and_not_by_the_size() -> None:
    loss = np.asarray([0.1] * 50 + [1.0] * 50)
    p = LossSampling(0.3, floor=0.0).decide(offer(loss)).probability
    assert p is not None
    assert p[50:].mean() / p[:50].mean() == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("name", ["selective-backprop", "top-loss", "loss-sampling"])
def test_they_are_methods_by_name(name: str) -> None:
    made = methods.build(name, 3)
    assert isinstance(made, Method)
    assert made.scores
    with pytest.raises(ConfigError):
        methods.build(name, 3, warmup=2.0)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="beta"):
        SelectiveBackprop(0)
    with pytest.raises(ConfigError, match="share"):
        TopLoss(0)
    with pytest.raises(ConfigError, match="expected a finesieve Method"):
        methods.build("builtins:dict")
    with pytest.raises(ConfigError, match="nowhere"):
        methods.build("nowhere:nothing")
