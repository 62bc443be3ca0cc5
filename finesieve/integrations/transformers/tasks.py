"""How many target tokens an example has, measured for the tasks whose targets are tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from finesieve.scoring import heads
from finesieve.scoring.task_of import decoder_needs_targets, head_of

__all__ = ["TokensPerExample", "decoder_needs_targets", "head_of"]

_MOVED = 1.25  # ratio of averages that is more than chance, of some hundred texts


class TokensPerExample:
    """Measures how many target tokens an example has on average, and sets the head's `per`.

    A trainer divides the sum of a batch's token losses by its number of target tokens. What one
    example adds to that is, over the whole data, its own sum divided by the average number: with
    this number as `per`, the mean over examples is the trainer's objective. Taken over all
    examples drawn while the gates are open, `least` at the least; then it stays as it is, so that
    the sizes of examples can be compared. Where texts grow longer or shorter in the course of the
    data (a curriculum), so that the latest `window` examples have another average by a quarter or
    more, it becomes theirs: the trainer's mean is over the tokens of the batch at hand.

    all_labels: the trainer divides by all labels of a text, also the first, which is no target.
    """

    def __init__(
        self,
        head: heads.Tokens,
        all_labels: bool = False,
        least: int = 1024,
        window: int = 256,
    ) -> None:
        self.head, self._least, self._window = head, least, window
        self._count = (heads.Tokens() if all_labels else head).count
        self._tokens, self._examples = 0, 0
        self._latest = [0, 0]  # tokens and examples, since the average was looked at

    def see(self, batch: Any, is_open: bool) -> None:
        """A batch as drawn, before anything is left out of it."""
        labels = batch.get(self.head.targets[0]) if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return  # the head says what is wrong with it
        tokens = int(self._count(labels).sum())
        if is_open or self._examples < self._least:
            self._tokens, self._examples = self._tokens + tokens, self._examples + len(labels)
            self._set()
            return
        self._latest = [self._latest[0] + tokens, self._latest[1] + len(labels)]
        if self._latest[1] >= self._window:
            ratio = max(1, self._latest[0]) / self._latest[1] / (self.head.per or 1.0)
            if not 1.0 / _MOVED <= ratio <= _MOVED:
                self._tokens, self._examples = self._latest
                self._set()
            self._latest = [0, 0]

    def _set(self) -> None:
        if self._examples:
            self.head.per = max(1, self._tokens) / self._examples

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "examples": self._examples, "latest": list(self._latest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._tokens, self._examples = state["tokens"], state["examples"]
        self._latest = list(state.get("latest", (0, 0)))
        self._set()
