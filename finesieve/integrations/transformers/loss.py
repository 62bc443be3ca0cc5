"""What a Trainer with a sieve trains on, batch by batch, and what the sieve is told of it.

While a batch carries no weights (gates open) that is the host's own loss, to the bit, unless the
user gave another; else the weighted mean of the losses of its examples, on the host's scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from finesieve.batches.carry import FILLER, IDS, WEIGHTS
from finesieve.integrations.transformers.scale import LossScale
from finesieve.integrations.transformers.tasks import decoder_needs_targets
from finesieve.scoring import heads
from finesieve.scoring.mode import scoring
from finesieve.sieve.sieve import Sieve


class TrainedLoss:
    """Gives the loss of each batch of the sieve's, a scalar, and the model's outputs.

    Args:
        trainer: of transformers.
        host: the trainer's own `compute_loss`.
        head, losses: as in `attach`; one of them is there.
        sft: whether the trainer is TRL's `SFTTrainer`, which keeps metrics while it computes its
            loss.
        own: whether the user gave the loss, by `head` or `losses`.
        watches: whether the method learns from losses, or somebody else looks at them.
        compares: whether the head's loss must be the trainer's own.
    """

    def __init__(
        self,
        trainer: Any,
        host: Callable[..., Any],
        head: heads.Head | None,
        losses: Callable[[nn.Module, Any], Tensor] | None,
        *,
        sft: bool,
        own: bool,
        watches: bool,
        compares: bool = True,
    ) -> None:
        self._trainer, self._host, self._head, self._losses = trainer, host, head, losses
        self._sft, self._own, self._watches = sft, own, watches
        self._compares = compares
        self.scale = LossScale(trainer, head)

    def __call__(
        self, sieve: Sieve, model: nn.Module, inputs: Any, carried: dict[str, Tensor], items: Any
    ) -> tuple[Tensor, Any]:
        """Returns the loss to call `backward()` on, and the model's outputs; tells the sieve the
        losses.

        Args:
            sieve: made the batch.
            model: as the trainer trains it.
            inputs: the batch's columns as the model takes them.
            carried: the sieve's own of this batch, `sieve_ids` at least; a filler has its mark.
            items: the trainer's `num_items_in_batch`.
        """
        if FILLER in carried:
            return self._nothing(model, inputs, items)
        if WEIGHTS in carried:
            return self._weighted(sieve, model, inputs, carried, items)
        if self._own:
            each, outputs = self._ours(model, inputs)
            if self._watches:
                sizes = None
                if self._losses is None and self._head is not None:
                    sizes = self._head.both(outputs, inputs)[1]
                sieve.observe(each, _riding(carried), sizes)
            return self.scale.scaled(each.mean(), items), outputs
        targets = (
            {} if self._head is None else {k: inputs[k] for k in self._head.targets if k in inputs}
        )  # the host takes them out
        loss, outputs = self._hosts(model, inputs, items)
        if self._head is not None and self._watches:
            each, sizes = self._head.both(outputs, targets)
            if self._compares:
                self.scale.compare(loss, each, targets, items)
            sieve.observe(each, _riding(carried), sizes)
        return loss, outputs

    def _weighted(
        self, sieve: Sieve, model: nn.Module, inputs: Any, carried: dict[str, Tensor], items: Any
    ) -> tuple[Tensor, Any]:
        if self._sft:  # through the host, for the metrics that it keeps
            assert self._head is not None
            loss, outputs = self._hosts(model, inputs, items)
            each = self._head.losses(outputs, inputs)
            self.scale.compare(loss, each, inputs, items)
        else:
            if not self._own:
                self._ask(inputs, items)
            each, outputs = self._ours(model, inputs)
        return self.scale.scaled(sieve.loss(each, carried), items), outputs

    def _nothing(self, model: nn.Module, inputs: Any, items: Any) -> tuple[Tensor, Any]:
        """Returns a filler's loss, 0, and the outputs: it goes through the model all the same, for
        which other ranks wait."""
        if self._own:
            loss, outputs = self._ours(model, inputs)
        else:
            loss, outputs = self._hosts(model, inputs, items)
        return 0.0 * torch.nan_to_num(loss, 0.0, 0.0, 0.0).sum(), outputs

    def _ours(self, model: nn.Module, inputs: Any) -> tuple[Tensor, Any]:
        """Returns the loss of each example, float[n], and the model's outputs; None for these where
        the losses are a function of the user's."""
        if self._losses is not None:
            return self._losses(model, inputs), None
        assert self._head is not None
        # Without a loss of the model's own.
        kept = decoder_needs_targets(self._trainer.model)
        outputs = model(**{k: v for k, v in inputs.items() if kept or k not in self._head.targets})
        return self._head.losses(outputs, inputs), outputs

    def _hosts(self, model: nn.Module, inputs: Any, items: Any) -> tuple[Tensor, Any]:
        """Returns the host's loss and the model's outputs."""
        if not self._sft:
            both: tuple[Tensor, Any] = self._host(
                model, inputs, return_outputs=True, num_items_in_batch=items
            )
            return both
        seen: list[Any] = []  # asked for outputs, it would make them anew with another forward
        hook = model.register_forward_hook(lambda module, given, out: seen.append(out))
        try:
            loss: Tensor = self._host(model, inputs, num_items_in_batch=items)
        finally:
            hook.remove()
        return loss, seen[0]

    def _ask(self, inputs: Any, items: Any) -> None:
        """Makes sure that the trainer's loss is the head's before the first batch is weighed.

        Where gates were open, it waits for the comparisons made then. Where they were closed from
        the start there are none, so it compares this batch's loss."""
        if self.scale.compared or self.scale.is_share is not None:
            self.scale.check(wait=True)
            return
        assert self._head is not None
        with scoring(self._trainer.model) as model:
            loss, outputs = self._hosts(model, dict(inputs), items)
            self.scale.compare(loss, self._head.losses(outputs, inputs), inputs, items)


def _riding(carried: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = carried[IDS]
    return {IDS: ids, WEIGHTS: torch.ones_like(ids, dtype=torch.float32)}
