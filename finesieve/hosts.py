"""What adapters to training frameworks share; knows none of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from finesieve.stream import Sieve


def figures(sieve: Sieve) -> dict[str, float]:
    """For a host's logs: stage; shares trained on and scored of what was drawn; savings in
    training cost."""
    examples, ratio = sieve.ledger.examples, sieve.cost_ratio
    drawn = max(1, examples.drawn - sieve.held)
    trained, scored = examples.yielded / drawn, examples.scored / max(1, examples.drawn)
    return {"sieve_stage": float(sieve.stage), "sieve_trained": round(trained, 4),
            "sieve_scored": round(scored, 4),
            "sieve_saved": round(1.0 - trained - ratio * scored, 4)}


def device_clock(device: torch.device) -> Callable[[], float]:
    """Seconds; waits for a GPU, which runs ahead of the program."""
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def examples_in_pass(loader: Any) -> int | None:
    """Examples that a `DataLoader` draws in one pass; None if it cannot be known."""
    sampler: Any = getattr(loader, "sampler", None)
    size = getattr(loader, "batch_size", None)
    if size is None or not sized(sampler):
        return None
    count = len(sampler)
    return count // size * size if loader.drop_last else count


def sized(thing: Any) -> bool:
    try:
        len(thing)
    except TypeError:
        return False
    return True
