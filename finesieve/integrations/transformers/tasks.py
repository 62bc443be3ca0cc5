"""How many target tokens an example has, measured for the tasks whose targets are tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from finesieve.scoring import heads
from finesieve.scoring.task_of import decoder_needs_targets, head_of

__all__ = ["TokensPerExample", "decoder_needs_targets", "head_of"]


class TokensPerExample:
    """Measures how many target tokens an example has on average, and sets the head's `per`.

    A trainer divides the sum of a batch's token losses by its number of target tokens. What one
    example adds to that is, over the whole data, its own sum divided by the average number: with
    this number as `per`, the mean over examples is the trainer's objective. Taken over all
    examples drawn while the gates are open, `least` at the least; then it stays as it is, so that
    the sizes of examples can be compared.

    all_labels: the trainer divides by all labels of a text, also the first, which is no target.
    """

    def __init__(self, head: heads.Tokens, all_labels: bool = False, least: int = 1024) -> None:
        self.head, self._least = head, least
        self._count = (heads.Tokens() if all_labels else head).count
        self._tokens, self._examples = 0, 0

    def see(self, batch: Any, is_open: bool) -> None:
        """A batch as drawn, before anything is left out of it."""
        labels = batch.get(self.head.targets[0]) if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return  # the head says what is wrong with it
        if is_open or self._examples < self._least:
            self._tokens += int(self._count(labels).sum())
            self._examples += len(labels)
            self.head.per = max(1, self._tokens) / max(1, self._examples)

    def state_dict(self) -> dict[str, int]:
        return {"tokens": self._tokens, "examples": self._examples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._tokens, self._examples = state["tokens"], state["examples"]
        if self._examples:
            self.head.per = max(1, self._tokens) / self._examples
