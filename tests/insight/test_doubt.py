"""What was not found may still be there: no interval shrinks to nothing on few rows."""

from __future__ import annotations

import numpy as np
import pytest

import finesieve
from finesieve.insight import folds as fits
from finesieve.insight.curves import learning_curve
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.labels import judge, wilson
from tests import tiny
from tests.insight.test_inspect import Bag, rows
from tests.insight.test_labels import clusters, judged


def sure(n: int, wrong: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a sure model, and labels that it agrees with but for the first ones."""
    labels = np.arange(n) % 2
    p = np.full((n, 2), 0.01)
    p[np.arange(n), labels] = 0.99 - np.linspace(0.0, 0.1, n)
    labels[:wrong] = 1 - labels[:wrong]
    return p / p.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("n", [100, 400, 10_000])
def test_no_mistake_among_the_anchors_leaves_room_for_some(n: int) -> None:
    found = judge(*sure(n))
    anchors = n // 4
    assert found.wrong.value == found.wrong.low == 0.0
    # The rule of three, and a little more for two ends.
    assert 3.0 / (anchors + 3.0) < found.wrong.high / n < 4.0 / anchors
    assert np.all(found.most > 10)
    assert np.all(found.most <= n / 2)


def test_one_mistake_leaves_more_room_than_a_bootstrap_draws() -> None:
    none, one = (judge(*sure(400, wrong)).wrong for wrong in (0, 1))
    assert one.high > none.high + 4  # an anchor stands for four rows
    assert one.high > 400 * 5 / 100  # the exact upper end is 5.4 of 100 anchors
    assert one.low == 0.0


def test_rows_with_unequal_weights_leave_more_doubt() -> None:
    p, labels = sure(400)
    weights = np.where(np.arange(400) % 8 < 2, 20.0, 1.0)
    assert judge(p, labels, weights=weights).wrong.high > 2.0 * judge(p, labels).wrong.high


def test_wilsons_interval_is_the_published_one() -> None:
    low, high = wilson(np.array([0.0, 0.1, 1.0]), np.array([10, 50, 10]))
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", method 3.
    assert low == pytest.approx([0.0, 0.0435, 0.7225], abs=2e-4)
    assert high == pytest.approx([0.2775, 0.2136, 1.0], abs=2e-4)


def test_a_class_without_anchors_tells_nothing() -> None:
    p, labels = sure(400)
    labels[5] = 2
    found = judge(np.c_[p, np.zeros(400)], labels)
    assert found.most[2] == 1.0


def test_the_table_of_classes_has_upper_ends() -> None:
    table = finesieve.inspect(
        Bag(), rows(200, 0), tokenizer=tiny.tokenizer(), max_length=16
    ).classes
    most = zip(table["wrong_labels"], table["wrong_labels_at_most"], strict=True)
    assert all(few < many for few, many in most)


def test_a_forecast_without_a_miss_is_no_certainty() -> None:
    features, labels, _ = clusters(400, 30.0, 0.0)
    heads, p, _ = judged(features, labels)
    curve = learning_curve(heads, labels, p.astype(float))
    assert curve.now == 0.0
    gain = curve.forecast[2.0]
    assert gain.low < -0.002 < 0.002 < gain.high


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_the_curve_ends_at_the_rows_that_the_heads_were_fitted_to(
    folds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    plain = Heads.fitted

    def counted(self: Heads, index: np.ndarray) -> object:
        fitted.append(len(index))
        return plain(self, index)

    monkeypatch.setattr(Heads, "fitted", counted)
    found = finesieve.inspect(Bag(), rows(), tokenizer=tiny.tokenizer(), max_length=16, folds=folds)
    assert found.curve is not None
    assert found.curve.sizes[-1] == pytest.approx(np.mean(fitted[:folds]), abs=2)
    assert found.curve.base == pytest.approx(400 * (1 - 1 / folds))
    assert len(np.unique(found.curve.sizes)) == len(found.curve.sizes)
    assert max(found.curve.sizes[:-1]) < found.curve.sizes[-1]


def test_heads_that_are_fitted_to_no_more_rows_are_no_level_curve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many rows a head is fitted to some: the curve says to how many, and the law goes on."""
    features, labels, _ = clusters(6_400, 2.0, 0.0)
    monkeypatch.setattr(fits, "MOST", 800)
    heads = Heads(features, labels, 3)
    p = heads.out_of_fold(folds_of(labels, np.arange(6_400), 5, 0))
    curve = learning_curve(heads, labels, p.astype(float))
    assert curve.sizes.tolist() == [200, 400, 800]
    assert curve.base == 5_120
    found = finesieve.inspect(Bag(), rows(1_200), tokenizer=tiny.tokenizer(), max_length=16)
    said = "classified wrongly by a head that has not seen them and was fitted to 800 others"
    assert said in " ".join(found.sentences())
