"""The interface of a task: how to compute an example's loss and the size of its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finesieve.gates.features import FeatureFunction, token_features
from finesieve.gates.protocol import FloatArray


@dataclass(frozen=True, slots=True)
class Unmet:
    """The classes that do not occur among the examples that a head is fitted to.

    Args:
        classes: bool[classes], True for a class that does not occur.
        count: the number of targets that the examples have together.
        alone: True where an example may have several labels, so that each class is a yes or no of
            its own; False where exactly one class is right.
    """

    classes: Tensor
    count: int
    alone: bool = False

    def half(self, bias: Tensor) -> Tensor:
        """Returns the loss of pretending that each missing class occurred half a time, a scalar.

        The logits of the pretended examples are the biases alone. The sum is divided by `count`,
        as the loss of the real examples is. Half an observation a class is the estimator of
        Krichevsky and Trofimov (1981).

        Args:
            bias: float32[classes], of the last layer.
        """
        logs = F.logsigmoid(bias) / len(bias) if self.alone else torch.log_softmax(bias, dim=0)
        return -0.5 * logs[self.classes].sum() / max(1, self.count)


class Head(ABC):
    """Computes the loss of each example of a task, and the size of its gradient.

    A head is abstract or final.

    Attributes:
        targets: keys of a dict batch that the model is not given when it is scored.
        fits: whether the last linear layer may be fitted to this task's loss before training begins
            (`finesieve.scoring.head_start`): its logits are classes or values of the task, not
            words.
        begins_constant: whether the best constant prediction takes the place of a new layer where a
            fitted one would be no better, since new layers are far worse than it.
    """

    targets: tuple[str, ...] = ("labels",)
    fits: bool = False
    begins_constant: bool = False

    @abstractmethod
    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient.

        Args:
            outputs: what the model gave.
            batch: a mapping with the targets.

        Raises:
            ScoreError: for outputs or targets that are not the task's.
            BatchError: without targets.
        """

    @abstractmethod
    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example, float32[n], non-negative: its loss is
        differentiated with respect to the outputs that the model gave for it.

        Args and errors are those of `losses`.
        """

    def both(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns losses and sizes, float32[n] each, without gradient; at once where that is
        cheaper."""
        with torch.no_grad():
            sizes = self.sizes(outputs, batch)  # checks the targets
            return self.losses(outputs, batch), sizes

    def unmet(self, targets: Mapping[str, Tensor], outputs: int) -> Unmet | None:
        """Returns the classes that do not occur in a batch; None for a task without classes.

        Args:
            targets: the columns of the batch that hold its labels, [n, ...].
            outputs: the number of outputs of the last layer, one for each class.
        """
        return None

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: tokens alone, unless the task has a label to cross
        with."""
        return token_features(labels=None)

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns the sizes where only the training losses float32[n] are known; the losses
        themselves by default."""
        return np.maximum(loss, 0.0)
