"""Wrong labels come first and are counted; the count does not take the model's errors for them."""

from __future__ import annotations

import numpy as np
import pytest

from finesieve.insight.curves import TIMES, easiest_share, gradient_sizes, learning_curve
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.labels import Judged, judge

CLASSES = 3


def clusters(n: int, apart: float, flipped: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features float32[n, 8] in three clusters, labels, and which of them were flipped."""
    dice = np.random.default_rng(seed)
    true = dice.integers(0, CLASSES, n)
    middles = apart * np.eye(CLASSES, 8)
    features = (middles[true] + dice.standard_normal((n, 8))).astype(np.float32)
    wrong = dice.random(n) < flipped
    labels = np.where(wrong, (true + dice.integers(1, CLASSES, n)) % CLASSES, true)
    return features, labels, wrong


def judged(features: np.ndarray, labels: np.ndarray) -> tuple[Heads, np.ndarray, Judged]:
    heads = Heads(features, labels, CLASSES)
    p = heads.out_of_fold(folds_of(labels, np.arange(len(labels)), 5, 0))
    return heads, p, judge(p, labels)


def test_flipped_labels_come_first_and_their_number_is_known() -> None:
    features, labels, wrong = clusters(1500, 6.0, 0.1)
    _, _, found = judged(features, labels)
    assert wrong[found.issues[: round(found.wrong.value)]].mean() > 0.9
    assert wrong[found.issues].sum() > 0.95 * wrong.sum()
    assert found.wrong.low <= wrong.sum() <= found.wrong.high
    assert np.all((found.quality >= 0) & (found.quality <= 1))
    assert found.quality[wrong].mean() < 0.2 < found.quality[~wrong].mean()


def test_classes_that_are_hard_to_tell_apart_are_not_wrong_labels() -> None:
    features, labels, _ = clusters(1500, 2.3, 0.0)
    _, p, found = judged(features, labels)
    assert (p.argmax(axis=1) != labels).mean() > 0.08
    assert found.confident / 1500 > 0.02  # as confident learning counts
    assert found.wrong.value / 1500 < 0.01


@pytest.mark.parametrize(("apart", "flipped"), [(1.6, 0.0), (1.6, 0.1), (2.3, 0.1), (6.0, 0.2)])
def test_the_interval_holds_the_number_where_the_model_is_poor_too(
    apart: float, flipped: float
) -> None:
    features, labels, wrong = clusters(3000, apart, flipped)
    _, p, found = judged(features, labels)
    assert found.wrong.low <= wrong.sum() <= found.wrong.high
    if apart == 1.6:  # it misses more than every fifth row, and the surest ones hold some of these
        assert (p.argmax(axis=1) != labels).mean() > 0.2
        assert found.wrong.value < found.anchored
    assert found.told or apart == 1.6


def test_a_row_is_judged_by_heads_that_have_not_seen_it() -> None:
    dice = np.random.default_rng(0)  # nothing to learn: who has seen a row would know its label
    features = dice.standard_normal((120, 300)).astype(np.float32)
    labels = dice.integers(0, CLASSES, 120)
    heads = Heads(features, labels, CLASSES)
    heads.strength = 1e-4  # weak enough to learn by heart
    p = heads.out_of_fold(folds_of(labels, np.arange(120), 4, 0))
    everything = np.arange(120)
    assert (p.argmax(axis=1) == labels).mean() < 0.55
    seen = heads.fitted(everything)(everything)
    assert (seen.argmax(axis=1) == labels).mean() > 0.8


def test_copies_share_a_fold_and_classes_are_spread() -> None:
    labels = np.repeat([0, 1], 50)
    groups = np.arange(100) // 2
    fold = folds_of(labels, groups, 5, 0)
    assert np.array_equal(fold[::2], fold[1::2])
    assert all(np.ptp(np.bincount(fold[labels == k], minlength=5)) <= 2 for k in (0, 1))


def test_a_class_of_copies_is_still_seen_by_every_head() -> None:
    labels = np.repeat([0, 1], 50)
    groups = np.r_[0:50, np.full(50, 50)]  # class 1 is one text
    fold = folds_of(labels, groups, 5, 0)
    assert set(fold[50:]) == {0, 1, 2, 3, 4}


def test_the_forecast_says_what_twice_the_data_bring() -> None:
    features, labels, _ = clusters(3200, 2.0, 0.0)
    half = slice(0, 1600)
    heads, p, _ = judged(features[half], labels[half])
    curve = learning_curve(heads, labels[half], p.astype(float))
    _, all_p, _ = judged(features, labels)
    change = float((all_p.argmax(axis=1) != labels).mean()) - curve.now
    assert curve.forecast[2.0].low <= change <= curve.forecast[2.0].high
    assert set(curve.forecast) == set(TIMES)
    assert curve.errors[0] > curve.errors[-1]
    assert curve.forecast[0.5].value > 0 > curve.forecast[4.0].low


def test_too_few_rows_give_no_forecast() -> None:
    features, labels, _ = clusters(120, 2.0, 0.0)
    heads, p, _ = judged(features, labels)
    assert not learning_curve(heads, labels, p.astype(float)).told


def test_the_gradient_is_what_softmax_and_label_leave() -> None:
    p = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    assert gradient_sizes(p, np.array([0, 0])) == pytest.approx([np.sqrt(0.09 + 0.04 + 0.01), 0.0])
    assert easiest_share(np.array([1.0, 1.0, 2.0, 4.0])) == pytest.approx(0.25)
