"""Threshold sampling against naive references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finesieve.gates.protocol import Features, Offer
from finesieve.gates.sampling import (
    ThresholdSampling,
    balanced_threshold,
    class_thresholds,
    inclusion,
    solve_threshold,
)
from finesieve.stages.prices import stage_prices
from finesieve.stages.window import auc

sizes = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=60)


def by_bisection(s: np.ndarray, target: float, floor: float, w: np.ndarray) -> float:
    """The naive reference: halve until nothing changes; returns what is kept."""
    low, high = 0.0, 1e9
    for _ in range(100):
        mid = (low + high) / 2
        if (w * inclusion(s, mid, floor)).sum() > target:
            low = mid
        else:
            high = mid
    return float((w * inclusion(s, high, floor)).sum())


@settings(max_examples=200, deadline=None)
@given(sizes, st.floats(0.01, 1.2), st.sampled_from([0.0, 0.02, 0.3]), st.booleans())
def test_solver_agrees_with_bisection(
    values: list[float], share: float, floor: float, weighted: bool
) -> None:
    s = np.asarray(values, dtype=np.float64)
    s[s < 1e-6] = 0.0  # bisection from 1e9 has no digits left below
    w = np.linspace(0.5, 3, len(s)) if weighted else np.ones(len(s))
    target = share * w.sum()
    threshold = solve_threshold(s, target, floor, w)
    kept = (w * inclusion(s, threshold, floor)).sum()
    if target >= w.sum():
        assert threshold == 0.0
        return
    assert kept == pytest.approx(by_bisection(s, target, floor, w), rel=1e-6, abs=1e-6)
    reachable = floor * w.sum() <= target <= max(floor * w.sum(), w[s > 0].sum())
    if reachable and (s > 0).all():
        assert kept == pytest.approx(target, rel=1e-9)


def test_by_hand() -> None:
    # Two of (1, 1, 2, 8): 8 is certain, the rest share one place by size: tau = 4.
    assert solve_threshold([1, 1, 2, 8], 2) == pytest.approx(4)
    assert inclusion([1, 1, 2, 8], 4).tolist() == [0.25, 0.25, 0.5, 1]
    assert solve_threshold([3, 3], 2) == 0.0
    assert solve_threshold([0, 0], 1) == float("inf")


@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=30), st.floats(0.1, 0.9))
@settings(max_examples=100, deadline=None)
def test_least_variance(values: list[float], share: float) -> None:
    """No other probabilities with the same expected number have a smaller variance."""
    s = np.asarray(values)
    p = inclusion(s, solve_threshold(s, share * len(s)))
    best = (s * s / p).sum()
    dice = np.random.default_rng(0)
    for _ in range(20):
        other = np.clip(p * dice.uniform(0.8, 1.25, len(s)), 1e-3, 1)
        other = np.clip(other * p.sum() / other.sum(), 1e-3, 1)
        if other.sum() <= p.sum() + 1e-9:
            assert (s * s / other).sum() >= best * (1 - 1e-9)


@settings(max_examples=100, deadline=None)
@given(sizes, st.floats(0, 1.5), st.sampled_from([0.0, 0.02, 0.3]), st.booleans())
def test_balanced_threshold_is_the_least_variance_times_cost(
    values: list[float], ratio: float, floor: float, weighted: bool
) -> None:
    """The naive reference: try a few thousand thresholds."""
    s = np.asarray(values, dtype=np.float64)
    s[s < 1e-4] = 0.0
    w = np.linspace(0.5, 3, len(s)) if weighted else np.ones(len(s))
    scoring = ratio * w.sum()
    threshold = balanced_threshold(s, scoring, floor, w)
    if not s.any():
        assert threshold == 0.0
        return

    def products(t: np.ndarray) -> np.ndarray:
        """Of each threshold, all at once."""
        p, some = inclusion(np.tile(s, (len(t), 1)), t[:, None], floor), s > 0
        return (1 / p[:, some]) @ (w * s * s)[some] * (scoring + p @ w)

    tried = np.geomspace(s[s > 0].min() / 2, 4 * s.max() / max(floor, 0.1), 2000)
    assert products(np.array([threshold]))[0] <= products(tried).min() * (1 + 1e-9)


def test_the_balance_keeps_no_less_than_asked() -> None:
    s = np.random.default_rng(0).lognormal(-1, 2, 400)
    free = balanced_threshold(s, 20.0)
    few = float(inclusion(s, free).sum())
    assert few < 60
    assert inclusion(s, balanced_threshold(s, 20.0, least=100)).sum() == pytest.approx(100)
    assert balanced_threshold(s, 20.0, least=few / 2) == free  # it is more already
    gate = ThresholdSampling(None, 0.0, cost_ratio=0.05, least=0.25)
    p = gate.decide(Offer(np.arange(400), size=s.astype(np.float32), drawn=800)).probability
    assert p is not None
    assert p.sum() == pytest.approx(200, rel=1e-5)  # of the 800 drawn


def test_no_class_is_starved() -> None:
    """A small class that is easy keeps its share, though one threshold for all would drop it."""
    dice = np.random.default_rng(0)
    labels = np.where(np.arange(400) < 40, 1, 0)
    s = np.where(labels == 1, 0.01, dice.lognormal(-1, 1, 400)).astype(np.float32)
    gate = ThresholdSampling(None, 0.02, cost_ratio=0.3, least=0.2)
    alone = gate.decide(Offer(np.arange(400), size=s)).probability
    features = Features(np.zeros((400, 1), np.int64), labels)
    together = gate.decide(Offer(np.arange(400), size=s, features=features))
    p = together.probability
    assert alone is not None
    assert p is not None
    assert alone[labels == 1].sum() < 2
    assert p[labels == 1].sum() == pytest.approx(40 * 0.2, rel=1e-5)
    assert p[labels == 0] == pytest.approx(alone[labels == 0])  # that class has enough
    assert together.keep[labels == 1].sum() == 8  # of each label as many as expected

    half = np.full(400, 0.5, np.float32)  # behind a forward gate: 800 were drawn, 80 of the class
    behind = gate.decide(Offer(np.arange(400), size=s, features=features, probability=half))
    assert behind.probability is not None
    assert behind.probability[labels == 1].sum() == pytest.approx(80 * 0.2, rel=1e-5)
    none = gate.decide(Offer(np.arange(400), size=s * labels, features=features)).probability
    assert none is not None
    assert none[labels == 0] == pytest.approx(0.02)  # without sizes there is nothing to starve


def test_balanced_threshold_by_hand() -> None:
    # sum over size >= t of (size / t)^2 - 1 is the cost of scoring: 16 / t^2 - 1 = 3.
    assert balanced_threshold([4, 1, 0.5], 3.0) == pytest.approx(2.0)
    assert balanced_threshold([4, 1, 0.5], 0.0) == pytest.approx(4.0)  # free: only the largest sure
    assert balanced_threshold([0, 0], 3.0) == 0.0


def test_prices_by_simulation() -> None:
    """The replayed price is the variance x cost that sampling really has."""
    dice = np.random.default_rng(1)
    n = 400
    s = dice.lognormal(-1, 1, n)
    predicted = s * dice.lognormal(0, 0.5, n)
    q = inclusion(predicted, solve_threshold(predicted, 0.4 * n, 0.1), 0.1)
    p = inclusion(s / q, solve_threshold(s / q, 0.2 * n, 0.05, q), 0.05)
    signs = dice.choice([-1.0, 1.0], n)
    sums, cost = [], []
    for _ in range(20000):
        scored = dice.random(n) < q
        kept = scored & (dice.random(n) < p)
        sums.append((signs[kept] * s[kept] / (q * p)[kept]).sum())
        cost.append(0.3 * scored.sum() + kept.sum())
    # Var of the estimate plus that of the stream itself, sum(s^2), is sum(s^2 / qp).
    second_moment = np.var(sums) + (s * s).sum()
    simulated = second_moment / (s * s).sum() * np.mean(cost) / n
    prices = stage_prices(
        s, predicted, None, train=0.2, score=[0.4], cost_ratio=0.3, floors=(0.1, 0.05)
    )
    assert prices.forward == pytest.approx([simulated], rel=0.03)
    assert prices.backward != pytest.approx(simulated, rel=0.05)


def test_equal_sizes_do_not_pay_and_concentrated_ones_do() -> None:
    kind = {"train": 0.2, "score": [0.4], "cost_ratio": 0.3, "floors": (0.1, 0.05)}
    equal = stage_prices(np.ones(500), np.ones(500), None, **kind)
    assert equal.backward > 1.2
    assert equal.forward[0] > 1.2
    spread = np.r_[np.full(450, 0.01), np.ones(50)]
    assert stage_prices(spread, spread, None, **kind).backward < 0.8


def test_no_fixed_share_is_cheaper_than_the_balance() -> None:
    s = np.random.default_rng(0).lognormal(-1, 1, 500)
    kind = {"score": [0.5], "cost_ratio": 0.2, "floors": (0.1, 0.05)}
    balanced = stage_prices(s, s, None, train=None, **kind)
    for share in (0.05, 0.1, 0.2, 0.3, 0.5):
        fixed = stage_prices(s, s, None, train=share, **kind)
        assert balanced.backward <= fixed.backward * (1 + 1e-9)
        assert balanced.forward[0] <= fixed.forward[0] * (1 + 1e-9)


def test_auc_against_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    dice = np.random.default_rng(0)
    for _ in range(20):
        y = dice.random(200) < 0.3
        score = np.round(y * 0.5 + dice.random(200), 1)  # with ties
        w = dice.uniform(0.5, 4, 200)
        assert auc(score, y, w) == pytest.approx(roc_auc_score(y, score, sample_weight=w))


@pytest.mark.parametrize("other", [[-100, 2, 5000], [0, 7, 3], [0.1, 0.2, 0.3]])
def test_classes_go_by_any_numbers(other: list[float]) -> None:
    """Small whole numbers are counted as they are, all others are numbered first."""
    dice = np.random.default_rng(0)
    sizes, kinds = dice.lognormal(0, 1, 60), dice.integers(0, 3, 60)
    sizes[kinds == 1] = 0.0  # a class without sizes has nothing to starve
    by_hand = np.where(kinds == 1, np.inf, 0.0)
    for kind in (0, 2):
        by_hand[kinds == kind] = sizes[kinds == kind].mean() / 0.2
    found = class_thresholds(sizes, np.array(other)[kinds], 0.2)
    assert found == pytest.approx(by_hand)
