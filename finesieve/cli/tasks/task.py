"""A task of the command line: what differs from one to another, in one object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finesieve.cli.data.readers import READERS, Reader
from finesieve.cli.data.table import Table
from finesieve.cli.measures import Measure
from finesieve.cli.tasks.targets import Targets
from finesieve.scoring.heads import Head

Result = Mapping[str, Any]  # the `eval` of a record


class Task(ABC):
    """Defines what differs between tasks: the model and its loss, the figures that judge it, and
    the sentences about them in terminal, verdict and page.

    How labels are read from a file is defined beside the readers (`finesieve.cli.data.readers`).

    Attributes:
        name: as `--task` takes it.
        model: the ending of the class in transformers: `AutoModelFor...`.
        adapters: PEFT's name for it.
        by_word: whether texts are given to the tokenizer word by word.
        figures: its columns in a table, the one that says best how good a run is first.
        told: what the verdict says of them.
        paired: whether `right` tells of each example if the first figure counts it: the interval of
            its difference comes from the examples, too, and not of the seeds alone.
        size: a sentence on what the size of a gradient is.
        each: title of the table of classes, the head of its second column, and what is counted.
        inspected: whether `finesieve inspect` serves it.
    """

    name: str
    model = "SequenceClassification"
    adapters = "SEQ_CLS"
    by_word = False
    figures: tuple[Measure, ...]
    told: tuple[Measure, ...]
    paired: Measure | None = None
    size = "Size is the norm of the gradient at the logits, 0 to 1.4."
    each = ("Each class", "class", "evaluation examples")
    inspected = False

    @property
    def reader(self) -> Reader:
        """Returns the reader of this task's labels."""
        return READERS[self.name]

    @property
    def main(self) -> Measure:
        """Returns the one figure that says best how good a run is."""
        return self.figures[0]

    # ---- learning

    @abstractmethod
    def names(
        self, train: Table, evals: Sequence[Table], given: Sequence[str] | None
    ) -> tuple[list[Any], list[str]]:
        """Returns the names of the model's outputs, none where there are none, and notes for the
        user.

        Args:
            given: the names that there may be, if the user said so.

        Raises:
            DataError: for labels that cannot be learned, or that the training split has not.
        """

    @abstractmethod
    def targets(self, train: Table, names: Sequence[Any]) -> Targets:
        """Returns the encoder that turns labels into the arrays that the model is trained on."""

    @abstractmethod
    def head(self, targets: Targets) -> Head:
        """Returns the head that computes the loss of each example."""

    def cut(self, truth: Mapping[str, Sequence[Any]], max_length: int) -> list[str]:
        """Returns notes on what of the labels lies beyond the longest text that is served.

        Args:
            truth: of each set, as `Targets.truth` gave it.
        """
        return []

    def outputs(self, names: Sequence[Any]) -> dict[str, Any]:
        """Returns the entries of the model's configuration about its outputs."""
        known = {i: str(name) for i, name in enumerate(names)}
        return {
            "num_labels": len(known),
            "id2label": known,
            "label2id": {name: i for i, name in known.items()},
        }

    # ---- judging

    @abstractmethod
    def answers(self, logits: Tensor, truth: Sequence[Any], targets: Targets) -> Sequence[Any]:
        """Returns the prediction for each example.

        Args:
            logits: float32 of a batch, on the CPU.
            truth: of the same examples, as `Targets.truth` gave it.
        """

    @abstractmethod
    def judge(
        self, predicted: Sequence[Any], truth: Sequence[Any], names: Sequence[Any]
    ) -> dict[str, Any]:
        """Returns the figures of this task, by name, with the baseline and the recall of each
        class."""

    @abstractmethod
    def right(self, predicted: Sequence[Any], truth: Sequence[Any]) -> npt.NDArray[np.bool_] | None:
        """Returns for each example whether its prediction is right, bool[n]; None for a task whose
        predictions are near or far instead of right or wrong."""

    @abstractmethod
    def has_learned_nothing(self, result: Result) -> str | None:
        """Returns the words for a model that answers every example alike, e.g. "predicts one class
        for everything"; None for a model whose answers differ."""

    @abstractmethod
    def warning(self, result: Result, config: Mapping[str, Any]) -> str | None:
        """Returns a warning, with the likely cause, if a model answers every example alike.

        Args:
            config: the run's settings.
        """

    # ---- words

    def in_short(self, result: Result) -> str:
        """Returns a line on a run, as the progress of several runs shows it."""
        return f"{self.main.head} {result[self.main.key]:.4f}, loss {result['loss']:.4f}"

    @abstractmethod
    def in_full(self, result: Result) -> str:
        """Returns a line on a run, as the end of one run shows it."""

    @abstractmethod
    def in_words(self, result: Result) -> str:
        """Returns sentences on a run, as the page of one run shows them."""

    @abstractmethod
    def baseline(self, results: Sequence[Result]) -> str:
        """Returns a sentence on what always giving the same answer would reach, if it is known."""

    def weakest(self, one: Result) -> str:
        """Returns a sentence on the class of the lowest recall, one of `classes`."""
        return (
            f"The weakest class is {one['name']}: {one['recall']:.0%} of its {one['n']} "
            "evaluation examples are recognised."
        )
