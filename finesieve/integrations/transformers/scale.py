"""How a Trainer scales the loss of one of several batches whose gradients it adds up.

Is its loss the batch's mean, or only the batch's share of the mean over all of them? Trainer and
model settle that between them, and which models heed `num_items_in_batch` differs. So it is
measured: the trainer's own loss is compared with ours, until a batch tells.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from finesieve.errors import ConfigError
from finesieve.scoring import heads

_LEAST = 0.01  # mean loss of a batch that tells anything


class LossScale:
    """Scales the sieve's loss as the trainer scales its own.

    head: None where the losses come from a function of the user's.
    is_share: what was found; None before.
    """

    def __init__(self, trainer: Any, head: heads.Head | None) -> None:
        self._trainer, self._head, self._checked = trainer, head, False
        self.is_share: bool | None = None

    @property
    def _parts(self) -> int:
        """Batches whose gradients are added up."""
        return int(self._trainer.current_gradient_accumulation_steps)

    def _times(self, items: Any) -> int:
        """What the trainer multiplies its loss by on several ranks, where it counts the items of
        all of them: the number of ranks, also for models that do not heed `num_items_in_batch`."""
        trainer = self._trainer
        args, counted = trainer.args, trainer.model_accepts_loss_kwargs and items is not None
        return int(args.world_size) if args.average_tokens_across_devices and counted else 1

    def unknown(self, items: Any) -> bool:
        """Whether it matters, and is not known yet."""
        return self.is_share is None and self._parts * self._times(items) > 1

    def compare(self, host: Tensor, each: Tensor, targets: Any, items: Any) -> None:
        """Learn from a batch. host: the trainer's loss, a scalar; each: ours, float[n]; targets:
        the batch's columns; items: the trainer's `num_items_in_batch`."""
        alone = self._parts * self._times(items) == 1
        if self._checked if alone else self.is_share is not None:
            return
        times, share = self._times(items), 1.0 / self._parts
        mean = float(each.detach().mean())
        if isinstance(self._head, heads.Tokens):  # the host's mean is over tokens
            count = self._head.count(targets[self._head.targets[0]])
            tokens = max(1.0, float(count.sum()))
            mean = float((each.detach() * (self._head.per or count)).sum()) / tokens
            if items is not None:
                share = tokens * times / max(1.0, float(items))
        found = float(host.detach()) / max(1e-9, mean)
        if alone:
            self._check(found, mean)
        elif math.isfinite(found) and mean >= _LEAST and share < 0.9 * times:
            # (else rounding decides, or this batch is nearly all of them)
            self.is_share = found < (share * times) ** 0.5
            self._check(found / (share if self.is_share else times), mean)

    def _check(self, found: float, mean: float) -> None:
        """`ConfigError` if the trainer minimises another loss than the head's, by which gates go
        and which is trained on once they are closed. Rounding and a text's first label, which some
        versions count and others do not, are far less than a third."""
        if not math.isfinite(found) or mean < _LEAST:
            return
        self._checked = True
        if not 2 / 3 < found < 3 / 2:
            raise ConfigError(
                f"the trainer's loss is {found:.2f} times that of {type(self._head).__name__}: the "
                "model or the trainer weighs, smooths or adds something that the head does not "
                "(class weights, an auxiliary loss): give attach(..., losses=function), a "
                "function (model, batch) -> loss per example"
            )

    def scaled(self, loss: Tensor, items: Any) -> Tensor:
        """A batch's mean as the host would scale it."""
        trainer, share = self._trainer, self.is_share
        if share is None:  # no loss of the host's to go by: what the trainer leaves us
            share = getattr(trainer, "loss_is_scaled_for_ga", None)
        if share is None:
            share = trainer.model_accepts_loss_kwargs and items is not None
            share = share or trainer.compute_loss_func is not None
        if share:
            return loss / self._parts
        return loss if self.is_share is None else loss * self._times(items)
