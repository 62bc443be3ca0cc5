"""`--task multi-label`: any number of labels a text, or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finesieve.cli.data.table import Table, known_names
from finesieve.cli.labelling import labelling
from finesieve.cli.measures import EXACT, MACRO_F1, MICRO_F1
from finesieve.cli.metrics import likely_cause
from finesieve.cli.tasks.targets import Marks, Targets
from finesieve.cli.tasks.task import Result, Task
from finesieve.scoring import heads


class MultiLabel(Task):
    """Any number of labels an example; one is predicted if its probability is above 0.5."""

    name = "multi-label"
    figures = told = (MICRO_F1, MACRO_F1, EXACT)
    paired = EXACT
    size = (
        "Size is the norm of the gradient at the logits: of the errors of all probabilities, over "
        "the number of labels."
    )
    each = ("Each label", "label", "evaluation examples")

    def names(
        self, train: Table, evals: Sequence[Table], given: Sequence[str] | None
    ) -> tuple[list[Any], list[str]]:
        """Returns the labels, and a note on how many an example has."""
        names = known_names(train, evals, "label", given)
        counts = [len(one) for one in train.labels if isinstance(one, tuple)]
        told = f"{train.name}: {len(names)} labels, {np.mean(counts):.2f} an example"
        if max(counts) == min(counts) == 1:
            told += "; no example has several, so --task classification may be what is meant"
        return list(names), [told]

    def targets(self, train: Table, names: Sequence[Any]) -> Targets:
        """Returns the encoder that makes a row of 0 and 1 of an example's labels."""
        return Marks(names)

    def head(self, targets: Targets) -> heads.Head:
        """Returns the head whose loss is the binary cross-entropy, averaged over the labels."""
        return heads.MultiLabel()

    def outputs(self, names: Sequence[Any]) -> dict[str, Any]:
        """Returns the entries of the model's configuration: one output for each label, each decided
        on by itself."""
        return {**super().outputs(names), "problem_type": "multi_label_classification"}

    def answers(self, logits: Tensor, truth: Sequence[Any], targets: Targets) -> Sequence[Any]:
        """Returns which labels have a probability above 0.5, bool[labels] an example."""
        return list((logits > 0).numpy())

    def judge(
        self, predicted: Sequence[Any], truth: Sequence[Any], names: Sequence[Any]
    ) -> dict[str, Any]:
        """Returns micro-F1, macro-F1, the share of examples with all labels right, and the recall
        of each label."""
        return labelling(np.stack(predicted), np.stack(truth) > 0.5, names)

    def right(self, predicted: Sequence[Any], truth: Sequence[Any]) -> npt.NDArray[np.bool_] | None:
        """Returns for each example whether exactly its labels were predicted, bool[n]."""
        found: npt.NDArray[np.bool_] = (np.stack(predicted) == (np.stack(truth) > 0.5)).all(axis=1)
        return found

    def has_learned_nothing(self, result: Result) -> str | None:
        """Returns the words for a model that gives every example the same labels, or none; None for
        others."""
        if result.get("only_set") is None:
            return None
        return "gives every example the same labels" if result["only_set"] else "predicts no label"

    def warning(self, result: Result, config: Mapping[str, Any]) -> str | None:
        """Returns a warning if every example is given the same labels, or none."""
        only = result.get("only_set")
        if only is None:
            return None
        what = f"{only!r} for every evaluation example"
        if not only:
            what = "no label for any evaluation example: no probability is above 0.5"
        return f"the trained model predicts {what}. {likely_cause(config)}"

    def in_full(self, result: Result) -> str:
        """Returns all figures in a line."""
        return (
            f"micro-F1 {result['micro_f1']:.4f}  macro-F1 {result['macro_f1']:.4f}  all labels "
            f"right {result['exact']:.4f}  loss {result['loss']:.4f}  (n={result['n']}; always "
            f"naming {result['majority_label']!r}: micro-F1 {result['majority']:.4f})"
        )

    def in_words(self, result: Result) -> str:
        """Returns all figures in sentences."""
        return (
            f"It reached a micro-F1 of {result['micro_f1']:.1%}, over the labels of all examples "
            f"together, and a loss of {result['loss']:.4f} on {result['n']:,} evaluation examples. "
            f"Macro-F1, the mean over labels, is {result['macro_f1']:.1%}; {result['exact']:.1%} "
            "of the examples have all their labels right and none too many. Always naming "
            f"{result['majority_label']!r}, the most frequent label, would have a micro-F1 of "
            f"{result['majority']:.1%}."
        )

    def baseline(self, results: Sequence[Result]) -> str:
        """Returns the micro-F1 of always naming the most frequent label."""
        known = [e["majority"] for e in results if "majority" in e]
        if not known:
            return ""
        return f"Always naming the most frequent label would have a micro-F1 of {max(known):.3f}."

    def weakest(self, one: Result) -> str:
        """Returns a sentence on the label of the lowest recall."""
        return (
            f"The weakest label is {one['name']}: it is recognised in {one['recall']:.0%} of the "
            f"{one['n']} evaluation examples that have it."
        )
