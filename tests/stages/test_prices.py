"""Prices of stages: by hand. Those by simulation are with the gates' own tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import finesieve as fs
from finesieve.gates.sampling import (
    Array,
    balanced_threshold,
    class_thresholds,
    inclusion,
    solve_threshold,
)
from finesieve.stages.prices import Known, stage_prices


def test_prices_count_the_audit_and_zero_sizes() -> None:
    dice = np.random.default_rng(0)
    s = dice.lognormal(-1, 1, 300)
    kind = {"train": 0.2, "score": [0.4], "cost_ratio": 0.3, "floors": (0.1, 0.05)}
    never, always = (
        fs.stages.prices.stage_prices(s, s[::-1], None, audit=a, **kind) for a in (0.0, 1.0)
    )
    assert always.forward == pytest.approx([always.backward])  # all audited: nothing is skipped
    assert never.forward != pytest.approx(always.forward, rel=0.01)
    s[:20] = 0.0
    none = fs.stages.prices.stage_prices(s, s, None, **{**kind, "floors": (0.0, 0.0)})
    assert np.isfinite(none.backward)


def one_by_one(
    s: Array, predicted: Array, w: Array, labels: Array, train: float | None, score: list[float]
) -> list[float]:
    """Replays both gates pool by pool and share by share: the naive twin of `stage_prices`."""
    cost, variance = np.zeros(1 + len(score)), np.zeros(1 + len(score))
    for at in (slice(i, i + 100) for i in range(0, len(s), 100)):
        size, weight = s[at], w[at]
        for i, share in enumerate([None, *score]):
            q = np.ones_like(size)
            if share is not None:
                bound = solve_threshold(predicted[at], share * weight.sum(), 0.1, weight)
                q = 0.02 + 0.98 * inclusion(predicted[at], bound, 0.1)
            scoring = 0.3 * float((weight * q).sum())
            if train is None:
                least = 0.2 * weight.sum()
                threshold = balanced_threshold(size / q, scoring, 0.05, weight * q, least)
                classes = class_thresholds(size / q, labels[at], 0.2, weight * q, weight)
                p = inclusion(size / q, np.minimum(threshold, classes), 0.05)
            else:
                threshold = solve_threshold(size / q, train * weight.sum(), 0.05, weight * q)
                p = inclusion(size / q, threshold, 0.05)
            some = size > 0
            cost[i] += scoring + float((weight * q * p).sum())
            variance[i] += float((weight * size**2 / (q * p))[some].sum())
    prices: list[float] = (cost / w.sum() * variance / (w * s * s).sum()).tolist()
    return prices


@pytest.mark.parametrize("train", [None, 0.3])
@pytest.mark.parametrize("n", [100, 250, 1024])
def test_many_at_once_are_priced_as_one_by_one(train: float | None, n: int) -> None:
    dice = np.random.default_rng(n)
    s = dice.lognormal(-1, 1, n) * (dice.random(n) < 0.9)  # some have no gradient
    predicted, w = dice.lognormal(-1, 1, n), dice.uniform(1, 3, n)
    labels, score = dice.integers(0, 3, n).astype(float), [0.2, 0.5, 0.9]
    kind: dict[str, Any] = {
        "cost_ratio": 0.3,
        "floors": (0.1, 0.05),
        "audit": 0.02,
        "least": 0.2,
        "pool": 100,
    }
    found = stage_prices(s, predicted, w, train=train, score=score, labels=labels, **kind)
    by_hand = one_by_one(s, predicted, w, labels, train, score)
    assert [found.backward, *found.forward] == pytest.approx(by_hand, rel=1e-9)


def test_pools_that_were_priced_before_are_not_priced_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a memo holds changes no price, and saves all pools but the new one."""
    priced, replay = [], Known.costs

    def counted(self: Known, *given: Any) -> Array:
        priced.append(len(self.size))
        return replay(self, *given)

    monkeypatch.setattr(Known, "costs", counted)
    dice, memo = np.random.default_rng(0), dict[Any, Array]()
    s, predicted = dice.lognormal(-1, 1, 2000), dice.lognormal(-1, 1, 2000)
    kind: dict[str, Any] = {"train": None, "score": (0.3, 0.6), "floors": (0.1, 0.05)}
    for first in range(0, 1200, 100):
        for ratio in (0.3, 0.4):
            given = s[first : first + 800], predicted[first : first + 800], None
            kind |= {"pool": 100, "cost_ratio": ratio}
            before = len(priced)
            with_memo = stage_prices(*given, **kind, memo=memo, first=first)
            assert len(priced) - before == (8 if first == 0 else 1)
            assert with_memo == stage_prices(*given, **kind)


def test_the_memo_does_not_grow() -> None:
    memo = dict[Any, Array]()
    for first in range(0, 10_000, 10):
        stage_prices(
            np.ones(300),
            None,
            None,
            train=0.5,
            score=(),
            cost_ratio=0.3,
            floors=(0.1, 0.1),
            pool=100,
            memo=memo,
            first=first,
        )
    assert len(memo) < 100
