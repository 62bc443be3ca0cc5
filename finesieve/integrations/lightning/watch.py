"""Whether a module's training step trains on what the sieve made of its losses."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finesieve.errors import ConfigError, FinesieveWarning
from finesieve.integrations.common import Most

_ROUNDING = 1e-4  # relative, of a loss in float32


class LossWatch:
    """Compares, batch by batch, what `training_step` returned with what `loss` gave it.

    The difference stays on the device until `check`, so that a GPU need not be waited for.
    """

    def __init__(self) -> None:
        self._ours: Tensor | None = None  # of the batch at hand
        self._worst = Most()  # difference over rounding
        self._warned = False

    def give(self, loss: Tensor) -> Tensor:
        """Notes a loss that the training step is given, a scalar, and returns it."""
        own = loss.detach()
        self._ours = own if self._ours is None else self._ours + own
        return loss

    def end(self, outputs: Any, parts: int, automatic: bool) -> None:
        """Ends a batch.

        Args:
            outputs: of the training step, as Lightning hands them to callbacks.
            parts: batches whose gradients are added up, by which Lightning has divided the loss.
            automatic: whether Lightning makes the optimizer's steps.

        Raises:
            ConfigError: if the sieve was not asked for the loss.
        """
        ours, self._ours = self._ours, None
        skipped = automatic and not outputs  # training_step returned None
        if ours is None and not skipped:
            raise ConfigError(
                "training_step did not call sieved.loss(losses, batch), so nothing would be "
                "weighed once gates close: return self.sieved.loss(losses, batch), with one loss "
                "an example and the batch as it came"
            )
        theirs = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if ours is None or not automatic or not isinstance(theirs, Tensor):
            return
        rounding = max(_ROUNDING, 2.0 * max(torch.finfo(x.dtype).eps for x in (ours, theirs)))
        apart = (theirs.detach().float() * parts - ours.float()).abs()
        self._worst.add((apart / (rounding * ours.float().abs() + 1e-5)).reshape(1))
        if apart.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Warns, once, if another loss was returned than the sieve's."""
        found = None if self._warned else self._worst.read()
        if found is None or found[0] <= 1.0:
            return
        self._warned = True
        warnings.warn(
            "training_step returned another loss than sieved.loss(losses, batch): what was added "
            "to it, or multiplied with it, is not weighed when gates are closed. Add a term that "
            "is about examples to their losses, before sieved.loss; one that is not (weight decay, "
            "say) may stay",
            FinesieveWarning,
            stacklevel=2,
        )
