"""The methods of a Trainer that a sieve stands in for: put in place, and taken back."""

from __future__ import annotations

from typing import Any

HOOKS = (
    "train",
    "get_train_dataloader",
    "create_optimizer_and_scheduler",
    "create_scheduler",
    "compute_loss",
    "log",
)


class Hooks:
    """Wraps methods of this one trainer; its class stays as it is.

    Args:
        trainer: of transformers.

    Attributes:
        own: the trainer's methods, by their names, as they were before.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.own = {name: getattr(trainer, name) for name in HOOKS}
        self._set_there = {name: vars(trainer)[name] for name in HOOKS if name in vars(trainer)}
        self._skips = trainer.args.ignore_data_skip
        self._callback: Any = None

    def put(self, by: Any, callback: Any, filters: bool) -> None:
        """Replaces the trainer's methods named in `HOOKS`, and gives it a callback.

        Args:
            by: has methods of these names, which take their place.
            callback: is called before all others.
            filters: whether the trainer must not skip batches when it resumes.
        """
        for name in HOOKS:
            setattr(self._trainer, name, getattr(by, name))
        self._callback = callback
        # Before all others: they read the epoch after each step, and what a checkpoint holds.
        self._trainer.callback_handler.callbacks.insert(0, callback)
        if filters:
            self._trainer.args.ignore_data_skip = True

    def take_back(self) -> None:
        """Gives the trainer back as it was; asked again, it does nothing: another sieve may be
        attached by then."""
        callback, self._callback = self._callback, None
        if callback is None:
            return
        for name in HOOKS:
            vars(self._trainer).pop(name, None)  # a method of its class again
        vars(self._trainer).update(self._set_there)
        self._trainer.remove_callback(callback)
        self._trainer.args.ignore_data_skip = self._skips
