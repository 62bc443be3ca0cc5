"""The scoring pass of a Lightning module: on batches as its training step sees them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden

from finesieve.scoring.last_layer import LastLayer
from finesieve.scoring.scorers import Launched, Scorer, Scores, launcher, scoring


class Prepared(Scorer):
    """Scores what the training step would see: converted, moved, through the transfer hooks."""

    def __init__(self, scorer: Scorer, trainer: Any, module: Any) -> None:
        self._scorer, self._trainer, self._module = scorer, trainer, module
        self.model = module

    def __call__(self, batch: Any) -> Scores:
        with scoring(self._module):  # hooks may draw random numbers
            return self._scorer(self._prepared(batch))

    def launch(self, batch: Any) -> Scores | Launched:
        with scoring(self._module):
            return launcher(self._scorer)(self._prepared(batch))

    @property
    def room(self) -> int:  # type: ignore[override]
        """As the scorer has it."""
        return self._scorer.room

    def last_layer(self, batch: Any) -> LastLayer | None:
        with scoring(self._module):
            return self._scorer.last_layer(self._prepared(batch))

    def _prepared(self, batch: Any) -> Any:
        trainer, data, hook = self._trainer, self._trainer.datamodule, "on_before_batch_transfer"
        owner = data if data is not None and is_overridden(hook, data) else self._module
        batch = trainer.precision_plugin.convert_input(batch)
        batch = owner.on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def size_of_loss(self, loss: Any) -> Any:
        return self._scorer.size_of_loss(loss)
