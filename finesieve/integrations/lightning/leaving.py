"""Removes a callback from its trainers: at once, or when the training under way ends."""

from __future__ import annotations

from typing import Any


class Leaving:
    """Removes a callback from the trainers that have it.

    During a training it stays until that ends, because its hooks keep the place in the data, which
    the learning rate and checkpoints depend on.

    Args:
        callback: the one to remove.

    Attributes:
        left: whether it was removed; then it does nothing.
        soon: whether it will be removed when the training under way ends.
    """

    def __init__(self, callback: Any) -> None:
        self._callback = callback
        self.left = self.soon = False
        self._known = False  # whether any trainer was known when it was removed

    def asked(self, trainers: list[Any]) -> None:
        """Removes the callback now, or at the end of the training under way.

        Args:
            trainers: Lightning's, those that are known.
        """
        self.soon = any(t.state.fn == "fit" and t.state.status == "running" for t in trainers)
        if not self.soon:
            self.leave(trainers)

    def leave(self, trainers: list[Any]) -> None:
        """Removes the callback from these trainers now."""
        for trainer in trainers:  # a new list: the trainer may be calling those of the old one
            trainer.callbacks = [c for c in trainer.callbacks if c is not self._callback]
        self.soon, self.left, self._known = False, True, bool(trainers)

    def stays(self, trainer: Any) -> bool:
        """Returns whether the callback should go on filtering; its `setup` asks this.

        If it was removed before any trainer was known, this trainer had it from the beginning, so
        it is removed here. A trainer that comes later was given the callback again on purpose.
        """
        if self.left and not self._known:
            self.leave([trainer])
            return False
        self.left = False
        return True
