"""What the sieve knows of a scoring pass: a scorer, and the losses and sizes that it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from finesieve.errors import ScoreError
from finesieve.gates.features import FeatureFunction, token_features
from finesieve.gates.protocol import FloatArray, IntArray
from finesieve.scoring.last_layer import LastLayer

# A scoring forward holds about one layer at a time where training holds all of them, so it may have
# more tokens than a training batch: this many times as many, or as many times as there are layers.
ROOM = 8


@dataclass(frozen=True, slots=True)
class Scores:
    """What the scoring pass finds of n examples.

    Args:
        loss: float32[n], on the CPU.
        size: float32[n], non-negative, on the CPU.
        prefix: float[n, length, width], what frozen layers put out, to ride along with the
            survivors.
    """

    loss: FloatArray
    size: FloatArray
    prefix: Tensor | None = None


class Launched(NamedTuple):
    """Scores that the device may still be working on: reading them waits for it.

    Args:
        loss: float[n].
        size: float[n]; None where it follows from the loss (`Scorer.size_of_loss`).
        prefix: as in `Scores`.
    """

    loss: Tensor
    size: Tensor | None
    prefix: Tensor | None = None


class Scorer(ABC):
    """Scores batches for the sieve: the only part of it that knows the model.

    Attributes:
        room: how many times the padded tokens of a training batch a scoring forward may have.
    """

    room: int = ROOM

    @abstractmethod
    def __call__(self, batch: Any) -> Scores:
        """Scores a batch of the loader's form.

        It leaves no trace: the model's mode and the random states are restored.
        """

    def launch(self, batch: Any) -> Scores | Launched:
        """Scores a batch as `__call__` does, and need not wait for the device: the sieve reads the
        scores of a whole pool at once."""
        return self(batch)

    def note(self, ids: IntArray) -> None:  # noqa: B027 - most need not know
        """Takes in which examples the last answer of a scoring pass was about: ids int64[n], of the
        first n of its rows."""

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns the sizes that go with training losses, float32[n], where only the losses are
        known (stage 1)."""
        return np.maximum(loss, 0.0)

    def features(self) -> FeatureFunction:
        """Returns what a predictor is to look at, unless the user says otherwise."""
        return token_features()

    def last_layer(self, batch: Any) -> LastLayer | None:
        """Returns what the model's last linear layer is given for a batch of the loader's form;
        None where no such layer makes the task's logits. It leaves no trace."""
        return None


def check_losses(losses: Any, n: int, where: str) -> Tensor:
    """Returns the losses, float[n].

    Args:
        losses: what was given for them.
        n: how many there must be.
        where: who gave them, for the message.

    Raises:
        ScoreError: if they are not one value per example; it names the mend.
    """
    if not isinstance(losses, Tensor):
        raise ScoreError(f"{where} gave a {type(losses).__name__}; expected a tensor of {n} losses")
    if losses.shape == (n,):
        return losses
    cause = ""
    if losses.numel() == 1 and n != 1:
        cause = ": it is the mean over the batch; use reduction='none'"
    elif losses.ndim > 1 and losses.shape[0] == n:
        cause = ": average over all dimensions but the first"
    raise ScoreError(
        f"{where} gave losses of shape {tuple(losses.shape)}; expected ({n},), one value per "
        f"example{cause}"
    )


def launcher(scorer: Callable[[Any], Scores]) -> Callable[[Any], Scores | Launched]:
    """Returns `scorer.launch`, or the scorer itself where its class, or the function that it is,
    has a call of its own that `launch` would pass by."""
    for kind in type(scorer).__mro__:
        if "launch" in vars(kind):
            launch: Callable[[Any], Scores | Launched] = scorer.launch  # type: ignore[attr-defined]
            return launch
        if "__call__" in vars(kind):
            break
    return scorer
