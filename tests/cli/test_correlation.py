"""Correlations and errors of predicted numbers: by hand, and as SciPy has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from finesieve.cli.correlation import (
    flat_warning,
    is_flat,
    pearson,
    ranks,
    regression,
    spearman,
)

CONFIG = {"lr": 1e-4, "lora": 0, "freeze": 0}


def judged(predicted: list[float], labels: list[float]) -> dict[str, Any]:
    return regression(np.array(predicted, dtype=float), np.array(labels, dtype=float))


def test_by_hand() -> None:
    """Ranks 1 2 3 4 and 1 3 2 4: Spearman is 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8."""
    found = judged([0.0, 1.0, 2.0, 7.0], [1.0, 3.0, 2.0, 4.0])
    assert found["spearman"] == pytest.approx(0.8)
    # about the means 2.5: -2.5 -1.5 -0.5 4.5 and -1.5 0.5 -0.5 1.5
    assert found["pearson"] == pytest.approx(10.0 / math.sqrt(29.0 * 5.0))
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 4 + 0 + 9) / 4))
    assert found["mean_rmse"] == pytest.approx(math.sqrt(5.0 / 4))
    assert found["spread"] == pytest.approx(math.sqrt(29.0 / 4))


def test_equal_values_share_their_ranks() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4.0, 1.0, 4.0, 2.0, 4.0]


def test_it_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    dice = np.random.default_rng(0)
    labels = dice.integers(0, 6, 300) / 5.0  # many ties
    predicted = np.round(labels**3 + dice.standard_normal(300), 1)
    assert spearman(predicted, labels) == pytest.approx(stats.spearmanr(predicted, labels)[0])
    assert pearson(predicted, labels) == pytest.approx(stats.pearsonr(predicted, labels)[0])


def test_only_the_order_counts_and_size_does_no_harm() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(np.exp(100 * a), a) == 1.0
    assert spearman(-a, a) == -1.0
    assert pearson(1e200 * a, 1e-200 * a) == pytest.approx(1.0)


def test_a_constant_tells_nothing_of_the_other() -> None:
    found = judged([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])
    assert (found["spearman"], found["pearson"], found["spread"]) == (0.0, 0.0, 0.0)
    assert judged([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])["spearman"] == 0.0


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({}, "too short"),
        ({"lr": 0.01}, "learning rate is probably too high"),
        ({"lora": 8}, "LoRA adapters need a learning rate about ten times"),
    ],
)
def test_nearly_one_number_for_everything_is_warned_of(more: dict[str, Any], cause: str) -> None:
    told = flat_warning(judged([2.0, 2.01, 1.99, 2.0], [0.0, 1.0, 3.0, 5.0]), {**CONFIG, **more})
    assert told is not None
    assert "predicts nearly the same number for every evaluation example" in told
    assert cause in told


def test_where_predictions_differ_or_labels_do_not_nothing_is_warned_of() -> None:
    assert flat_warning(judged([1.0, 2.0, 3.0], [0.0, 2.0, 5.0]), CONFIG) is None
    assert not is_flat(judged([2.0, 2.0], [2.0, 2.0]))
    assert not is_flat({"accuracy": 0.5})  # a record of classes
