"""Micro-F1, macro-F1 and all labels right, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from finesieve.cli.labelling import labelling
from finesieve.cli.tasks.registry import TASKS

CONFIG = {"lr": 1e-4, "lora": 0, "freeze": 0}


def judged(predicted: list[list[int]], marks: list[list[int]]) -> dict:
    return labelling(np.array(predicted, dtype=bool), np.array(marks, dtype=bool), "abc")


def test_by_hand() -> None:
    found = judged([[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    # a: there 2, predicted 2, right 1; b: 1, 1, 1; c is nowhere
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["macro_f1"] == pytest.approx((2 * 1 / 4 + 1.0) / 2)
    assert found["exact"] == pytest.approx(1 / 3)
    # Always naming a: right 2 of 3 predicted, and there are 3 labels.
    assert (found["majority_label"], found["majority"]) == ("a", pytest.approx(2 * 2 / (3 + 3)))
    a, b, c = found["classes"]
    assert (a["n"], a["predicted"], a["recall"], a["precision"]) == (2, 2, 0.5, 0.5)
    assert (b["recall"], c["recall"], c["precision"]) == (1.0, None, None)


def test_it_is_scikit_learns_f1() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    dice = np.random.default_rng(0)
    marks, predicted = dice.random((200, 3)) < 0.3, dice.random((200, 3)) < 0.4
    found = labelling(predicted, marks, "abc")
    for average in ("micro", "macro"):
        wanted = metrics.f1_score(marks, predicted, average=average)
        assert found[f"{average}_f1"] == pytest.approx(wanted)
    assert found["exact"] == pytest.approx(metrics.accuracy_score(marks, predicted))


@pytest.mark.parametrize(
    ("row", "warned", "caution"),
    [
        ([0, 0, 0], "no label for any evaluation example", "predicts no label"),
        ([1, 0, 1], "'a, c' for every evaluation example", "gives every example the same labels"),
    ],
)
def test_the_same_labels_for_everything_are_warned_of(
    row: list[int], warned: str, caution: str
) -> None:
    task, found = TASKS["multi-label"], judged([row, row], [[1, 0, 0], [0, 1, 0]])
    assert warned in str(task.warning(found, CONFIG))
    assert task.has_learned_nothing(found) == caution
    right = judged([row, row], [row, row])  # the examples are all alike, too
    assert task.warning(right, CONFIG) is None
    assert task.has_learned_nothing(right) is None


def test_nothing_there_and_nothing_predicted() -> None:
    found = judged([[0, 0, 0]], [[0, 0, 0]])
    assert (found["micro_f1"], found["macro_f1"], found["exact"]) == (0.0, 0.0, 1.0)
