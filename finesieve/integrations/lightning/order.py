"""The order in which a loader draws, and how a pass that was interrupted repeats it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def samplers(loader: Any) -> list[Any]:
    """Returns what may decide on the loader's order; None for what it does not have."""
    batches = getattr(loader, "batch_sampler", None)
    return [getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]


def generator_of(loader: Any) -> torch.Generator:
    """Returns the random generator that the loader's order comes from."""
    for part in (*samplers(loader), loader):
        if isinstance(found := getattr(part, "generator", None), torch.Generator):
            return found
    return torch.default_generator


def repeated(loader: Any, generator: torch.Generator, state: Tensor) -> Iterator[Any]:
    """Yields the loader's batches in the order that belongs to a random state.

    Args:
        loader: draws its order when a pass begins.
        generator: that its order comes from.
        state: of the generator when the pass began.
    """
    now = generator.get_state()
    generator.set_state(state)
    iterator = iter(loader)
    batch = next(iterator, None)  # samplers draw their order with the first batch
    if generator is torch.default_generator:
        generator.set_state(now)
    if batch is not None:
        yield batch
        yield from iterator
