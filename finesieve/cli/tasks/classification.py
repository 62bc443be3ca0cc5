"""`--task classification`: one class a text, or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finesieve.cli.data.labels import amounts_hint
from finesieve.cli.data.table import Table, label_names
from finesieve.cli.measures import ACCURACY, MACRO_F1
from finesieve.cli.metrics import classification, one_class_warning, only_class
from finesieve.cli.tasks.targets import Classes, Targets
from finesieve.cli.tasks.task import Result, Task
from finesieve.scoring.heads import Head, SingleLabel


class Classification(Task):
    """One class an example."""

    name = "classification"
    figures = told = (ACCURACY, MACRO_F1)
    paired = ACCURACY
    inspected = True

    def names(
        self, train: Table, evals: Sequence[Table], given: Sequence[str] | None
    ) -> tuple[list[Any], list[str]]:
        """Returns the names of the classes, and notes for the user.

        There is a note if the labels look like prices or ages: these are numbers to predict, with
        `--task regression`.
        """
        names = label_names(train, evals)
        hint = amounts_hint(train.labels)
        return list(names), [f"{train.name}: {hint}"] if hint else []

    def targets(self, train: Table, names: Sequence[Any]) -> Targets:
        """Returns the encoder that replaces each class by its number, 0 to classes - 1."""
        return Classes(names)

    def head(self, targets: Targets) -> Head:
        """Returns the head whose loss is the cross-entropy."""
        return SingleLabel()

    def answers(self, logits: Tensor, truth: Sequence[Any], targets: Targets) -> Sequence[Any]:
        """Returns the predicted class of each example: the one with the highest logit."""
        return list(logits.argmax(-1).numpy())

    def judge(
        self, predicted: Sequence[Any], truth: Sequence[Any], names: Sequence[Any]
    ) -> dict[str, Any]:
        """Returns accuracy, macro-F1, the accuracy of always naming the most frequent class, and
        the recall of each class."""
        return classification(
            np.asarray(predicted, dtype=np.int64), np.asarray(truth, dtype=np.int64), names
        )

    def right(self, predicted: Sequence[Any], truth: Sequence[Any]) -> npt.NDArray[np.bool_] | None:
        """Returns for each example whether its class was predicted, bool[n]."""
        found: npt.NDArray[np.bool_] = np.asarray(predicted) == np.asarray(truth)
        return found

    def has_learned_nothing(self, result: Result) -> str | None:
        """Returns the words for a model that predicts one class for every example; else None."""
        return None if only_class(result) is None else "predicts one class for everything"

    def warning(self, result: Result, config: Mapping[str, Any]) -> str | None:
        """Returns a warning if one class is predicted for everything."""
        return one_class_warning(result, config)

    def in_full(self, result: Result) -> str:
        """Returns accuracy, macro-F1 and loss in a line."""
        return (
            f"accuracy {result['accuracy']:.4f}  macro-F1 {result['macro_f1']:.4f}  "
            f"loss {result['loss']:.4f}  (n={result['n']}; always naming the most frequent class: "
            f"accuracy {result['majority']:.4f})"
        )

    def in_words(self, result: Result) -> str:
        """Returns accuracy, loss and macro-F1 in sentences."""
        told = (
            f"It reached an accuracy of {result['accuracy']:.1%} and a loss of "
            f"{result['loss']:.4f} on {result['n']:,} evaluation examples."
        )
        if "macro_f1" in result:
            told += (
                f" Macro-F1, the mean over classes, is {result['macro_f1']:.1%}; always naming the "
                f"most frequent class would have an accuracy of {result['majority']:.1%}."
            )
        return told

    def baseline(self, results: Sequence[Result]) -> str:
        """Returns the accuracy of always naming the most frequent class."""
        known = [e["majority"] for e in results if "majority" in e]
        if not known:
            return ""
        return f"Always naming the most frequent class would have an accuracy of {max(known):.3f}."
