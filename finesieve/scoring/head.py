"""What the sieve knows of a task: the loss of each example, and the size of its gradient."""

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
    """Classes that none of some examples is of.

    Args:
        classes: bool[classes].
        count: how many targets the examples have.
        alone: whether each class is a question of its own, yes or no; else one of them is right.
    """

    classes: Tensor
    count: int
    alone: bool = False

    def half(self, bias: Tensor) -> Tensor:
        """Returns the loss of half an observation of each of these classes, where the logits are
        the biases float32[classes], over the number of targets: a scalar.

        So many observations are what Krichevsky and Trofimov (1981) add to each class's count.
        """
        logs = F.logsigmoid(bias) / len(bias) if self.alone else torch.log_softmax(bias, dim=0)
        return -0.5 * logs[self.classes].sum() / max(1, self.count)


class Head(ABC):
    """Says of a task what an example's loss is, and how large the gradient of it.

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
        """Returns the norm of each loss's gradient by its row of outputs, float32[n], non-negative.

        Args and errors are those of `losses`.
        """

    def both(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns losses and sizes, float32[n] each, without gradient; at once where that is
        cheaper."""
        with torch.no_grad():
            sizes = self.sizes(outputs, batch)  # checks the targets
            return self.losses(outputs, batch), sizes

    def unmet(self, targets: Mapping[str, Tensor], outputs: int) -> Unmet | None:
        """Returns the classes that no example has; None where the outputs are not classes.

        Args:
            targets: the columns of a batch, [n, ...].
            outputs: how many outputs the last layer has.
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
