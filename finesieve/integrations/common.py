"""What the adapters of host libraries share: clock, random state, figures for the logs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from finesieve.errors import ConfigError
from finesieve.methods.method import Method
from finesieve.methods.recipes import Recipe
from finesieve.sieve.sieve import built


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds; waits for a GPU, which runs ahead of the program."""
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def check_method(
    method: Recipe | Method | str | None, id_key: Any, where: str, by_steps: bool = False
) -> None:
    """`ConfigError` for a method that needs more than a stream of batches gives.

    id_key: the column of ids, if any. where: who runs it. by_steps: whether whoever runs it makes
    the learning rate follow the share of the stream.
    """
    made = built(method, 0)
    wrong = ""
    if made.needs_reference:
        wrong = "needs a reference model trained beforehand"
    elif by_steps and made.schedule_by == "steps":
        wrong = "has a learning rate that goes by steps"
    if wrong:
        raise ConfigError(f"method {made.name!r} {wrong}, which {where} does not have: run it "
                          f"with `finesieve train --method {made.name}`")
    if made.needs_ids and id_key is None:
        raise ConfigError(f"method {made.name!r} remembers losses from pass to pass, so it needs "
                          "ids that stay the same: give id_key=, the name of a column of them")


class Wrapper:
    """Stands for another object: what it does not have itself is asked of `_inner`.

    Double-underscore names are not passed on, so that Python's protocols (copying, pickling) see
    the wrapper and not what is within; nor is anything before `_inner` is set, as in a copy that
    is being made.
    """

    _inner: Any

    def __getattr__(self, name: str) -> Any:
        if "_inner" not in vars(self) or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._inner, name)


def sized(loader: Any) -> bool:
    try:
        len(loader)
    except TypeError:
        return False
    return True


def examples(loader: Any, batch_size: int | None, ranks: int = 1) -> int | None:
    """Examples that one rank draws in one pass; None if it cannot be known.

    batch_size: of one rank. ranks: those among which the loader's sampler is divided by the host;
    1 where it gives each rank its own part.
    """
    if batch_size is None or not sized(loader):
        return None
    most = len(loader) * batch_size
    sampler = getattr(loader, "sampler", None)
    if ranks == 1 and sampler is not None and sized(sampler):
        return min(most, len(sampler))
    return most


# ---- the random state of the process (a GPU's apart, which no loader draws from)


def random_state() -> dict[str, Any]:
    """Of Python, NumPy and PyTorch; loads with `weights_only=True`."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    kind, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
