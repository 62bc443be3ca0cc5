"""A batch of the loader's as a Lightning module's training step sees it, for the scoring pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden


def preparing(trainer: Any, module: Any) -> Callable[[Any], Any]:
    """Returns a function that makes of a batch what the training step would see: converted, moved,
    through the transfer hooks."""

    def prepare(batch: Any) -> Any:
        data, hook = trainer.datamodule, "on_before_batch_transfer"
        owner = data if data is not None and is_overridden(hook, data) else module
        batch = trainer.precision_plugin.convert_input(batch)
        batch = owner.on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    return prepare
