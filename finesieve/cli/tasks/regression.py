"""`--task regression`: a number a text, or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finesieve.cli.correlation import flat_warning, is_flat, regression
from finesieve.cli.data.table import Table, check_values
from finesieve.cli.measures import PEARSON, RMSE, SPEARMAN
from finesieve.cli.tasks.targets import Scale, Targets
from finesieve.cli.tasks.task import Result, Task
from finesieve.scoring import heads


class Regression(Task):
    """A number an example."""

    name = "regression"
    figures = (SPEARMAN, PEARSON, RMSE)
    told = (SPEARMAN, RMSE)
    size = "Size is twice the error, in standard deviations of the labels."

    def names(
        self, train: Table, evals: Sequence[Table], given: Sequence[str] | None
    ) -> tuple[list[Any], list[str]]:
        """Returns no names, since a number has none; and a note if all labels of an evaluation set
        are the same, so that no correlation can be computed."""
        return [], check_values(train, evals)

    def targets(self, train: Table, names: Sequence[Any]) -> Targets:
        """Returns the encoder that standardises labels by those of the training data."""
        return Scale.of(train.labels)

    def head(self, targets: Targets) -> heads.Head:
        """Returns the head whose loss is the squared error."""
        return heads.Regression()

    def outputs(self, names: Sequence[Any]) -> dict[str, Any]:
        """Returns the entries of the model's configuration: one output, trained as a regression."""
        return {"num_labels": 1, "problem_type": "regression"}

    def answers(self, logits: Tensor, truth: Sequence[Any], targets: Targets) -> Sequence[Any]:
        """Returns the predicted number of each example, in the unit of the labels."""
        assert isinstance(targets, Scale)
        return list(targets.labels(logits.flatten().numpy()))

    def judge(
        self, predicted: Sequence[Any], truth: Sequence[Any], names: Sequence[Any]
    ) -> dict[str, Any]:
        """Returns Spearman's and Pearson's correlation, the RMSE, and that of always naming the
        mean."""
        return regression(
            np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
        )

    def right(self, predicted: Sequence[Any], truth: Sequence[Any]) -> npt.NDArray[np.bool_] | None:
        """Returns None, since a predicted number is near or far, never right or wrong."""
        return None

    def has_learned_nothing(self, result: Result) -> str | None:
        """Returns the words for a model that predicts nearly the same number for every example;
        None for others."""
        return "predicts nearly the same number for everything" if is_flat(result) else None

    def warning(self, result: Result, config: Mapping[str, Any]) -> str | None:
        """Returns a warning if nearly the same number is predicted for everything."""
        return flat_warning(result, config)

    def in_full(self, result: Result) -> str:
        """Returns correlations, error and loss in a line."""
        return (
            f"Spearman {result['spearman']:.4f}  Pearson {result['pearson']:.4f}  "
            f"RMSE {result['rmse']:.4g}  loss {result['loss']:.4f}  (n={result['n']}; always "
            f"naming the mean: RMSE {result['mean_rmse']:.4g})"
        )

    def in_words(self, result: Result) -> str:
        """Returns correlations, error and loss in sentences."""
        return (
            f"It reached a Spearman correlation of {result['spearman']:.3f} (Pearson "
            f"{result['pearson']:.3f}), a root mean squared error (RMSE) of {result['rmse']:.3g} "
            f"in the unit of the labels, and a loss of {result['loss']:.4f} on "
            f"{result['n']:,} evaluation examples. Always naming the mean would have an RMSE of "
            f"{result['mean_rmse']:.3g}. Losses are squared errors in standard deviations of the "
            "labels."
        )

    def baseline(self, results: Sequence[Result]) -> str:
        """Returns the error of always naming the mean."""
        known = [e["mean_rmse"] for e in results if "mean_rmse" in e]
        return f"Always naming the mean would have an RMSE of {min(known):.3g}." if known else ""
