"""The scoring pass of a Lightning module: on batches as its training step sees them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden

from finesieve.scoring.last_layer import LastLayer
from finesieve.scoring.mode import scoring
from finesieve.scoring.protocol import Launched, Scorer, Scores, launcher


class Prepared(Scorer):
    """Scores what the training step would see: converted, moved, through the transfer hooks."""

    def __init__(self, scorer: Scorer, trainer: Any, module: Any) -> None:
        self._scorer, self._trainer, self._module = scorer, trainer, module
        self.model = module

    def __call__(self, batch: Any) -> Scores:
        """Scores a batch of the loader's as the training step would see it."""
        with scoring(self._module):  # hooks may draw random numbers
            return self._scorer(self._prepared(batch))

    def launch(self, batch: Any) -> Scores | Launched:
        """Scores a batch and leaves the scores where they are (see `Scorer`)."""
        with scoring(self._module):
            return launcher(self._scorer)(self._prepared(batch))

    @property
    def room(self) -> int:  # type: ignore[override]
        """How many times the padded tokens of a training batch a scoring forward may have, as the
        scorer has it."""
        return self._scorer.room

    def last_layer(self, batch: Any) -> LastLayer | None:
        """Returns what the last linear layer is given for a batch (see `Scorer.last_layer`)."""
        with scoring(self._module):
            return self._scorer.last_layer(self._prepared(batch))

    def _prepared(self, batch: Any) -> Any:
        trainer, data, hook = self._trainer, self._trainer.datamodule, "on_before_batch_transfer"
        owner = data if data is not None and is_overridden(hook, data) else self._module
        batch = trainer.precision_plugin.convert_input(batch)
        batch = owner.on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def size_of_loss(self, loss: Any) -> Any:
        """Returns the sizes that go with training losses, float32[n]."""
        return self._scorer.size_of_loss(loss)
