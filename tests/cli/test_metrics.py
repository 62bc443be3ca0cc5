"""Macro-F1, recall and the majority by hand; a model that has only one answer."""

from __future__ import annotations

import numpy as np
import pytest

from finesieve.cli.metrics import classification, one_class_warning, only_class

CONFIG = {"lr": 1e-4, "lora": 0, "freeze": 0}


def judged(predicted: list[int], labels: list[int], names: str = "abc") -> dict:
    return classification(np.array(predicted), np.array(labels), list(names))


def test_by_hand() -> None:
    """a: 2 of 3 right, predicted 3 times; b: 1 of 2, predicted twice; c: the only one is missed."""
    found = judged([0, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 2])
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["majority"] == pytest.approx(3 / 6)
    # F1 of a: 2*2 / (3 + 3), of b: 2*1 / (3 + 2), of c: 0
    assert found["macro_f1"] == pytest.approx((4 / 6 + 2 / 5 + 0) / 3)
    a, b, c = found["classes"]
    assert (a["n"], a["predicted"], a["recall"], a["precision"]) == (3, 3, 2 / 3, 2 / 3)
    assert (b["recall"], b["precision"]) == (1 / 2, 1 / 3)
    assert (c["recall"], c["precision"], c["predicted"]) == (0.0, None, 0)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    assert judged([0, 1], [0, 1])["macro_f1"] == 1.0
    assert judged([0, 1], [0, 1])["classes"][2]["recall"] is None


def test_it_is_scikit_learns_macro_f1() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    dice = np.random.default_rng(0)
    labels, predicted = dice.integers(0, 5, 200), dice.integers(0, 6, 200)
    found = classification(predicted, labels, range(7))
    wanted = metrics.f1_score(labels, predicted, average="macro")
    assert found["macro_f1"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("labels", "more", "cause"),
    [
        ([0] * 5 + [1] * 5, {}, "too short"),
        ([0] * 5 + [1] * 5, {"lr": 0.01}, "learning rate is probably too high"),
        ([0] * 5 + [1] * 5, {"lora": 8}, "LoRA adapters need a learning rate about ten times"),
        ([0] * 5 + [1] * 5, {"freeze": 3}, "a model with frozen layers need"),
        ([0] * 95 + [1] * 5, {}, "95% of the labels are of one class"),
    ],
)
def test_one_class_for_everything_is_warned_of(
    labels: list[int], more: dict[str, float], cause: str
) -> None:
    found = judged([0] * len(labels), labels, "ab")
    told = one_class_warning(found, {**CONFIG, **more})
    assert told is not None
    assert "predicts 'a' for every evaluation example" in told
    assert cause in told


def test_where_one_class_is_right_nothing_is_warned_of() -> None:
    assert one_class_warning(judged([0, 0], [0, 0]), CONFIG) is None
    assert only_class(judged([0, 1], [0, 0])) is None
    assert only_class({"accuracy": 0.5}) is None  # a record of an earlier version
