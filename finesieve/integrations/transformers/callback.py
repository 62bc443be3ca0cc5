"""The sieve's callback among a Trainer's: saves, keeps the epoch right, ends the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from finesieve.errors import ConfigError
from finesieve.integrations.transformers import refusals as hf_refusals
from finesieve.integrations.transformers.loader import FilteredLoader
from finesieve.sieve.sieve import Sieve


class Host(Protocol):
    """What the callback needs of the object that is attached to the trainer.

    Args:
        sieve, loader: None before training begins.
        filters: whether the method ever leaves anything out.
        epochs: passes over the data; None if the trainer was given a number of steps.
        losses: how many batches the trainer asked `compute_loss` for.
    """

    trainer: Any
    sieve: Sieve | None
    loader: FilteredLoader | None
    filters: bool
    epochs: int | None
    losses: int

    def save(self, folder: Path) -> None:
        """Writes the sieve's state into the trainer's checkpoint."""
        ...


class SieveCallback(TrainerCallback):
    """Saves the sieve with the trainer's checkpoints; keeps the epoch right; ends the training."""

    def __init__(self, attached: Host) -> None:
        self._attached, self._losses = attached, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Keeps the epoch right; checks that the loss was the sieve's (a hook of the trainer's)."""
        attached = self._attached
        filters = attached.filters and not (attached.sieve is not None and attached.sieve.detached)
        if filters and attached.losses == self._losses:
            raise ConfigError(
                f"a {type(attached.trainer).__name__} made a step without calling the sieve's "
                "compute_loss, so nothing would be weighed once gates close: it was replaced after "
                "attach(), or training_step computes a loss of its own. Attach last, and let "
                "training_step call self.compute_loss; or give the loss as attach(..., "
                "losses=function), a function (model, batch) -> loss per example"
            )
        self._losses = attached.losses
        if attached.filters and attached.epochs is not None and attached.sieve is not None:
            # Whole numbers are whole where passes end: a sum of shares may be a hair beside them.
            state.epoch = round(attached.sieve.progress * attached.epochs, 9)
            self._bars(state.global_step, attached.sieve.progress)
        if attached.sieve is not None:
            attached.sieve.ledger.pause()
        return control

    def _bars(self, step: int, progress: float) -> None:
        """Lets progress bars end where training will, by the steps and the share of the data so
        far: the trainer has only an upper bound of its steps."""
        for callback in self._attached.trainer.callback_handler.callbacks:
            for name in ("training_bar", "training_tracker"):  # in a terminal, in a notebook
                bar: Any = getattr(callback, name, None)
                if getattr(bar, "total", None) and progress > 0:
                    bar.total = max(step, round(step / progress))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ends the training with its last pass (a hook of the trainer's)."""
        attached = self._attached
        if not attached.filters or attached.epochs is None or attached.sieve is None:
            return control
        if attached.sieve.passes >= attached.epochs:
            control.should_training_stop = True
            state.max_steps = state.global_step  # so far an upper bound
            self._bars(state.global_step, 1.0)
            # As the trainer does after its last step, which it did not know for that.
            if hf_refusals.by_steps(args.save_strategy):
                control.should_save = True
            if hf_refusals.by_steps(args.eval_strategy):
                missing = state.global_step % state.eval_steps != 0
                control.should_evaluate |= missing and args.eval_delay <= state.global_step
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Closes the books (a hook of the trainer's)."""
        if self._attached.loader is not None:
            self._attached.loader.close()
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Saves the sieve beside the trainer's checkpoint (a hook of the trainer's)."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # A search over hyperparameters saves elsewhere, and is not resumed in its middle.
        attached, searched = self._attached, state.is_hyper_param_search
        if attached.filters and attached.sieve is not None and not searched:
            folder.mkdir(parents=True, exist_ok=True)  # it is the first rank that makes it
            attached.save(folder)
        return control
