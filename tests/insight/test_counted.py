"""Rows that were run through the model stand for those that the filter passed over, by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finesieve.insight import inspecting
from finesieve.insight.data import Data
from finesieve.insight.embed import Embedded
from finesieve.insight.insights import Insights
from finesieve.insight.inspecting import look
from finesieve.insight.labels import judge
from finesieve.insight.visits import EARLY_MOST, Visits
from tests import tiny

N, OPEN = 4_000, 800  # rows, and those of them that pass open gates
AUDIT = 0.05


def passing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Insights, np.ndarray, np.ndarray, Visits]:
    """A look after a training that passed over most of the easy rows.

    Returns:
        What was found; which labels are wrong and which rows were looked at, bool[n]; the visits.
    """
    dice, rows = np.random.default_rng(seed), np.arange(N)
    true = dice.integers(0, 2, N)
    features = (2.5 * np.eye(2, 16)[true] + dice.standard_normal((N, 16))).astype(np.float32)
    wrong = dice.random(N) < 0.1
    labels = np.where(wrong, 1 - true, true)
    # As the forward gate does: the predictor knows the label, and takes wrong ones for hard rows.
    margin = features[rows, labels] - features[rows, 1 - labels] + dice.standard_normal(N)
    q = AUDIT + (1 - AUDIT) * np.minimum(1.0, 3.0 / (1.0 + np.exp(1.5 * margin)))
    words = [f"w{25 * y + j}" for y, j in zip(true, dice.integers(0, 25, N), strict=True)]
    visits = Visits(N)
    visits({"event": "open", "ids": rows[:OPEN]})
    visits({"event": "pool", "ids": rows[OPEN:], "forward_probability": q[OPEN:].astype("f4")})
    visits.met = (rows < OPEN) | (dice.random(N) < q)
    visits.features, visits.model = features, tiny.bert()
    visits.tokens = [np.asarray(tiny.tokenizer()(text)["input_ids"]) for text in words]
    visits.end(rows)
    again: list[Any] = []

    def embedded(*args: Any, leave_out: np.ndarray, **more: Any) -> Embedded:
        again.append(leave_out)
        seen = features.copy()
        seen[leave_out] = 0.0
        return Embedded(seen, np.ones(N, np.int64), np.zeros(N, np.bool_), 8)

    monkeypatch.setattr(inspecting, "embed", embedded)
    monkeypatch.setattr(inspecting, "repeats", lambda texts, seed: (rows, rows))
    data = Data("made up", words, None, labels, ["a", "b"], rows)
    found = look(visits.model, tiny.tokenizer(), data, pool="head", visits=visits)
    looked = np.ones(N, dtype=bool)
    looked[again[0]] = False
    return found, wrong, looked, visits


def test_easy_rows_that_were_met_stand_for_those_that_were_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, weighted = [], []
    for seed in range(5):
        found, wrong, looked, visits = passing(seed, monkeypatch)
        assert 0.4 < visits.passed.mean() < 0.6
        assert wrong[visits.passed].mean() < 0.01 < 0.2 < wrong[visits.met].mean()
        judged, many = found.judged, wrong.sum()
        assert judged is not None
        assert found.probabilities is not None
        assert found.data.labels is not None
        alike = judge(found.probabilities, found.data.labels, 0, looked.astype(float))
        assert judged.wrong.low <= many <= judged.wrong.high
        assert alike.wrong.value > 1.5 * many  # where all count for one
        plain.append(alike.anchored / many)
        weighted.append(judged.anchored / many)
        assert judged.joint.sum() == pytest.approx(N)
        by_class = np.asarray(found.classes["wrong_labels"])
        assert by_class.sum() == pytest.approx(judged.wrong.value, abs=0.2)
        assert "counted on" in found.how
    assert abs(np.mean(weighted) - 1.0) < 0.1
    assert np.mean(plain) > 2.0


def test_an_uneven_spread_of_wrong_labels_widens_the_interval() -> None:
    dice = np.random.default_rng(1)
    labels = dice.integers(0, 3, 3_000)
    p = np.full((3_000, 3), 0.1)
    p[np.arange(3_000), np.where(dice.random(3_000) < 0.1, (labels + 1) % 3, labels)] = 0.8
    even, uneven = judge(p, labels), judge(p, labels, uneven=0.15)
    assert uneven.wrong.value == even.wrong.value
    assert uneven.wrong.high > 1.1 * even.wrong.high
    assert uneven.wrong.low < 0.9 * even.wrong.low


def test_weights_are_one_over_the_chance_and_early_rows_are_certain() -> None:
    visits = Visits(N)
    rows, q = np.arange(N), np.full(N, 0.25, dtype=np.float32)
    visits({"event": "open", "ids": rows[:1_000]})
    visits({"event": "pool", "ids": rows[1_000:2_000], "forward_probability": q[:1_000] * np.nan})
    visits({"event": "pool", "ids": rows[2_000:], "forward_probability": q[2_000:]})
    visits({"event": "pool", "ids": rows[3_000:], "forward_probability": q[3_000:]})  # once more
    visits({"event": "bad", "count": 1, "total": 1})
    visits.met[:] = True
    visits.met[[10, 3_999]] = False
    visits.end(rows)
    weights = visits.weights()
    assert (weights[:2_000] == 1.0).all()  # early or met for certain
    assert not visits.met[:EARLY_MOST].any()
    assert weights[2_000:3_000] == pytest.approx(4.0)
    assert weights[3_000:3_999] == pytest.approx(1.0 / (1.0 - 0.75**2))
    assert weights[3_999] == 0.0


def test_a_row_that_stands_for_many_counts_as_they_would() -> None:
    """The same estimate as of copies, and a wider interval: a heavy row is one row."""
    dice = np.random.default_rng(1)
    n, k = 6_000, 3
    labels = dice.integers(0, k, n)
    p = dice.dirichlet([1.0] * k, n) * 0.4
    p[np.arange(n), np.where(dice.random(n) < 0.1, (labels + 1) % k, labels)] += 0.6
    weights = dice.integers(1, 4, n)
    copied = np.repeat(np.arange(n), weights)
    one, all_ = judge(p, labels, 0, weights.astype(float)), judge(p[copied], labels[copied])
    scale = n / len(copied)
    assert one.anchored == pytest.approx(scale * all_.anchored, rel=0.03)
    assert one.confident == pytest.approx(scale * all_.confident)
    assert one.joint.sum(axis=0) == pytest.approx(scale * all_.joint.sum(axis=0))
    assert one.wrong.high - one.wrong.low > 1.1 * scale * (all_.wrong.high - all_.wrong.low)
