"""How long a Lightning training is: its passes over the data, its steps, its examples."""

from __future__ import annotations

import math
from typing import Any

from finesieve.errors import ConfigError
from finesieve.integrations.common import examples, sized


def passes_of(trainer: Any) -> int | None:
    """Returns how many passes over the data the training takes; None where batches are counted."""
    counted = trainer.max_steps > 0 or isinstance(trainer.limit_train_batches, int)
    return None if counted or trainer.max_epochs < 0 else int(trainer.max_epochs)


def total_of(trainer: Any, loader: Any, given: int | None) -> int | None:
    """Returns how many examples there are in all passes together; None if that is unknown.

    Args:
        given: what the user said that it is, which is believed.
    """
    passes = passes_of(trainer)
    count = examples(loader, getattr(loader, "batch_size", None))
    if given is not None or passes is None or count is None:
        return given
    return passes * count


def steps_of(trainer: Any, loader: Any, filters: bool) -> int:
    """Returns the number of optimizer steps that plain training takes.

    Args:
        filters: whether the loader is filtered: Lightning would count its batches.

    Raises:
        ConfigError: if that is not known.
    """
    limit, epochs = trainer.limit_train_batches, trainer.max_epochs
    batches: float = len(loader) if sized(loader) else math.inf
    if isinstance(limit, int):  # as many as told, whatever the loader's length
        batches = limit
    if not filters:
        steps = trainer.estimated_stepping_batches
    elif trainer.max_steps > 0:
        steps = trainer.max_steps
    elif epochs < 0 or math.isinf(batches):
        steps = -1
    else:
        steps = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
    if steps < 1 or math.isinf(steps):
        raise ConfigError(
            "the number of steps is not known: set max_steps, or max_epochs with a loader "
            "that has a length"
        )
    return int(steps)
