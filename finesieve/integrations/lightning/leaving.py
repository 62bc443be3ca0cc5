"""When a callback leaves the trainers that have it: at once, or when a training ends."""

from __future__ import annotations

from typing import Any


class Leaving:
    """Takes a callback out of its trainers.

    In mid-training it stays until that ends: the place in the data, by which the learning rate and
    checkpoints go, is kept by its hooks.

    Args:
        callback: the one that leaves.

    Attributes:
        left: whether it has; then it does nothing.
        soon: whether it does when the training under way ends.
    """

    def __init__(self, callback: Any) -> None:
        self._callback = callback
        self.left = self.soon = False
        self._known = False  # whether a trainer was, when it left

    def asked(self, trainers: list[Any]) -> None:
        """Leaves, now or soon.

        Args:
            trainers: of Lightning, as far as they are known.
        """
        self.soon = any(t.state.fn == "fit" and t.state.status == "running" for t in trainers)
        if not self.soon:
            self.leave(trainers)

    def leave(self, trainers: list[Any]) -> None:
        """Leaves now."""
        for trainer in trainers:  # a new list: the trainer may be calling those of the old one
            trainer.callbacks = [c for c in trainer.callbacks if c is not self._callback]
        self.soon, self.left, self._known = False, True, bool(trainers)

    def stays(self, trainer: Any) -> bool:
        """Returns whether the callback serves a trainer that sets it up.

        If it left when no trainer was known, it leaves this one now, which had it already then. A
        trainer that comes after those that it left was given it anew.
        """
        if self.left and not self._known:
            self.leave([trainer])
            return False
        self.left = False
        return True
