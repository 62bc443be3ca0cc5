"""What to know of predicted numbers: correlations with the labels, and how far they are off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.cli.metrics import likely_cause

_FLAT = 0.02  # of the labels' spread: predictions of less are all nearly the same

Values = npt.NDArray[np.float64]


def regression(predicted: Values, labels: Values) -> dict[str, Any]:
    """Judge predicted numbers.

    Args:
        predicted, labels: float64[n], in the labels' own unit.

    Returns `spearman` and `pearson`, the correlations, in [-1, 1]; `rmse`, the root of the mean
    squared error; `mean_rmse`, that of always naming the mean of the labels, which is their
    standard deviation; and `spread`, the standard deviation of the predictions. The last three are
    in the labels' own unit.
    """
    return {
        "spearman": spearman(predicted, labels),
        "pearson": pearson(predicted, labels),
        "rmse": float(np.sqrt(np.mean((predicted - labels) ** 2))),
        "mean_rmse": float(np.std(labels)),
        "spread": float(np.std(predicted)),
    }


def pearson(a: Values, b: Values) -> float:
    """Return Pearson's correlation of float64[n] and float64[n]:
    sum((a - mean a)(b - mean b)) / sqrt(sum((a - mean a)^2) sum((b - mean b)^2)).

    It is 0 where one of them is constant, which tells nothing of the other.
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # the squares neither overflow nor vanish
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def spearman(a: Values, b: Values) -> float:
    """Return Spearman's rank correlation (Spearman 1904, "The proof and measurement of association
    between two things"): Pearson's of the ranks, where equal values share the mean of theirs.

    It is 0 where one of them is constant.
    """
    return pearson(ranks(a), ranks(b))


def ranks(values: Values) -> Values:
    """Return the ranks of float64[n], from 1; equal values have the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # the rank of the last of each group of equal values
    return np.asarray((last - (count - 1) / 2.0)[place], dtype=np.float64)


def is_flat(judged: Mapping[str, Any]) -> bool:
    """Return whether a model predicts nearly the same number for everything, while the labels
    differ.

    Args:
        judged: what `regression` returned, or a record's `eval` of any task.
    """
    return "spread" in judged and bool(
        judged["mean_rmse"] > 0 and judged["spread"] < _FLAT * judged["mean_rmse"]
    )


def flat_warning(judged: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return a warning if a model predicts nearly the same for everything, with the likely cause.

    Args:
        judged: what `regression` returned, or a record's `eval` of any task.
        config: the run's settings.
    """
    if not is_flat(judged):
        return None
    return (
        "the trained model predicts nearly the same number for every evaluation example (their "
        f"standard deviation is {judged['spread']:.2g}, that of the labels "
        f"{judged['mean_rmse']:.2g}). {likely_cause(config)}"
    )
