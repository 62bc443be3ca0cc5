"""Whether a Trainer minimises the loss that examples are scored by, and how it scales it.

Is its loss the batch's mean, or only the batch's share of the mean over all batches whose gradients
are added up? Trainer and model settle that between them, and which models heed
`num_items_in_batch` differs. So it is measured: the trainer's loss is compared with ours on every
batch that goes through it. One of the two must reproduce it within rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finesieve.errors import ConfigError
from finesieve.gates.features import IGNORED
from finesieve.integrations.common import Most
from finesieve.scoring import heads

_ROUNDING = 2e-5  # relative, of a loss that is computed in float32
# A difference that is rounding, however small the loss: it is a difference of numbers as large as
# logits, and of 100 two kernels may make twice 1e-5.
_NOTHING = 2e-5


class LossScale:
    """Compares the trainer's loss with the head's, and scales the sieve's loss as the trainer does.

    What is compared stays on the device until `check`, so that a GPU need not be waited for.

    Args:
        trainer: the host.
        head: None where the losses come from a function of the user's.

    Attributes:
        is_share: whether the trainer's loss is a batch's share of the mean; None until it is known.
    """

    def __init__(self, trainer: Any, head: heads.Head | None) -> None:
        self._trainer, self._head = trainer, head
        self.is_share: bool | None = None
        self._worst = Most()  # differences over rounding, of mean and share
        self._latest: Tensor | None = None  # the trainer's loss over each of the two
        self._read = True  # whether `check` knows of all batches

    @property
    def compared(self) -> bool:
        """Whether any batch was compared."""
        return bool(self._worst)

    @property
    def _parts(self) -> int:
        """Batches whose gradients are added up."""
        return int(self._trainer.current_gradient_accumulation_steps)

    def _times(self, items: Any) -> int:
        """Returns what the trainer multiplies its loss by on several ranks, where it counts the
        items of all of them: the number of ranks, also for models that do not heed
        `num_items_in_batch`."""
        trainer = self._trainer
        args, counted = trainer.args, trainer.model_accepts_loss_kwargs and items is not None
        return int(args.world_size) if args.average_tokens_across_devices and counted else 1

    def compare(self, host: Tensor, each: Tensor, targets: Any, items: Any) -> None:
        """Notes how far the trainer's loss of a batch is from ours.

        Args:
            host: the trainer's loss, a scalar; its precision says how much is rounding.
            each: the head's losses, float[n].
            targets: the batch's columns.
            items: the trainer's `num_items_in_batch`.

        Raises:
            ConfigError: as `check`, at once where that costs nothing.
        """
        if self._head is None:
            return
        rounding = self._rounding(host)
        each, host = each.detach().float(), host.detach().float()
        labels = torch.as_tensor(targets[self._head.targets[0]])
        mean, counted = each.mean(), (labels != IGNORED).sum()
        if isinstance(self._head, heads.Tokens):  # the host's mean is over tokens
            count = self._head.count(labels)
            counted = count.sum()
            mean = (each * (self._head.per or count.to(each))).sum() / counted.clamp(min=1)
        share = counted.to(each) / items if items is not None else 1.0 / self._parts
        ours = torch.stack([mean, mean * share]) * self._times(items)
        self._worst.add((host - ours).abs() / (rounding * ours.abs() + _NOTHING))
        self._latest, self._read = host / ours, False
        if host.device.type == "cpu":  # where a number is read without waiting for a device
            self.check()

    def _rounding(self, host: Tensor) -> float:
        """Returns the relative difference that rounding explains."""
        args, kind = self._trainer.args, host.dtype
        if args.torch_compile and (args.bf16 or args.fp16):  # which may leave out a rounding
            kind = torch.bfloat16
        return max(_ROUNDING, 2.0 * torch.finfo(kind).eps)

    def check(self, wait: bool = False) -> None:
        """Reads what was compared, as far as it is known.

        Args:
            wait: whether to wait for a GPU, where that was not done since the last comparison.

        Raises:
            ConfigError: if the trainer minimises another loss than the head's, by which gates go
                and which is trained on once they are closed.
        """
        if self._read or self._latest is None:
            return
        found = self._worst.read(wait)
        self._read = wait or self._latest.device.type == "cpu"
        if found is None:
            return
        mean, share = found
        if min(mean, share) > 1.0:
            ratio = min(self._latest.cpu().tolist(), key=lambda ratio: abs(ratio - 1.0))
            raise ConfigError(
                f"the trainer's loss is {_ratio(ratio)} times that of {type(self._head).__name__}: "
                "the model or the trainer weighs, smooths or adds something that the head does not "
                "(class weights, a loss_function of the model, an auxiliary loss): give "
                "attach(..., losses=function), a function (model, batch) -> loss per example"
            )
        if max(mean, share) > 1.0:
            self.is_share = share <= 1.0

    def scaled(self, loss: Tensor, items: Any) -> Tensor:
        """Returns a batch's mean as the host would scale it."""
        trainer, share = self._trainer, self.is_share
        if share is None:  # no loss of the host's to go by: what the trainer leaves us
            share = getattr(trainer, "loss_is_scaled_for_ga", None)
        if share is None:
            share = trainer.model_accepts_loss_kwargs and items is not None
            share = share or trainer.compute_loss_func is not None
        if share:
            return loss / self._parts
        return loss if self.is_share is None else loss * self._times(items)


def _ratio(found: float) -> str:
    """Returns a ratio with as many places as tell it from 1."""
    return f"{found:.2f}" if abs(found - 1.0) >= 0.005 else f"{found:.5f}"
