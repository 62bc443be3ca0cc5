"""The parts of golden runs: their list, the fixed state they are made in, the notes they take."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tests.golden import api
from tests.golden.compare import Record

SMALL = {"pool": 32, "group": 2}


@dataclass(frozen=True)
class Golden:
    """A named run and what must be true of it, so that it is worth recording.

    function: makes the run. stages: those that it goes through, in order. weighted: whether some
    examples weigh more or less than 1. same_as: the run that was not interrupted, for one that was:
    their records are the same. hosts: packages that it needs. version_of: the one of them whose
    own arithmetic differs between major versions, so that the record is good for one of these only.
    """

    name: str
    function: Callable[[], Record]
    stages: tuple[int, ...]
    weighted: bool
    same_as: str | None
    hosts: tuple[str, ...]
    version_of: str | None

    def run(self) -> Record:
        """Make the run on one thread and from a fixed random state; leave both as they were."""
        with isolated():
            if "accelerate" in self.hosts:
                _forget_accelerate()
            try:
                return self.function()
            finally:
                if "accelerate" in self.hosts:
                    _forget_accelerate()


RUNS: dict[str, Golden] = {}


def golden(
    stages: tuple[int, ...],
    weighted: bool,
    same_as: str | None = None,
    hosts: tuple[str, ...] = (),
    version_of: str | None = None,
) -> Callable[[Callable[[], Record]], Callable[[], Record]]:
    """Enter a function among the golden runs, under its own name."""

    def enter(function: Callable[[], Record]) -> Callable[[], Record]:
        name = function.__name__.replace("_", "-")
        RUNS[name] = Golden(name, function, stages, weighted, same_as, hosts, version_of)
        return function

    return enter


@contextmanager
def isolated() -> Iterator[None]:
    """One thread and fixed random states inside; the process's own ones afterwards."""
    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.set_num_threads(1)
    random.seed(11)
    np.random.seed(11)
    torch.manual_seed(11)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass
class Log:
    """What was trained on, batch by batch."""

    ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    weights: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def note(self, batch: Any) -> None:
        ids, weights = api.carried(batch)
        bare = api.bare(batch)
        tokens = bare[0] if isinstance(bare, tuple) else bare["input_ids"]
        self.shapes.append(tuple(tokens.shape))
        self.ids.append(ids)
        self.weights.append(weights)

    def __len__(self) -> int:
        return len(self.ids)

    def record(self, sieve: Any, model: nn.Module) -> Record:
        """Return the record of the run whose batches were noted here."""
        flat = [p.detach().float().reshape(-1) for p in model.parameters()]
        return Record(
            ids=np.concatenate(self.ids).astype(np.int64),
            shapes=np.array(self.shapes, dtype=np.int64),
            weights=np.concatenate(self.weights).astype(np.float32),
            stages=np.array(api.stages(sieve), dtype=np.int64),
            counts=np.array(api.counts(sieve), dtype=np.int64),
            parameters=torch.cat(flat).numpy().copy(),
        )


def _forget_accelerate() -> None:
    """Forget what a Trainer or an Accelerator of this process has set for all later ones."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def by_hand_method(**settings: Any) -> Any:
    """Return our method with stages that begin at 10 % and 30 % of the stream."""
    return api.build_method(
        "finesieve",
        0,
        **{"predictor_bits": 10, "starts": {2: 0.1, 3: 0.3}, "cost_ratio": 0.2, **settings},
    )
