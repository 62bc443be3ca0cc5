"""What the adapters of host libraries share: handles, refusals, placing, random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from finesieve.batches.carry import of_kind
from finesieve.batches.device import to_device
from finesieve.errors import ConfigError, SettingError
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe
from finesieve.methods.registry import method_of
from finesieve.sieve.options import SET, check_names
from finesieve.sieve.record import Record
from finesieve.sieve.returns import mark
from finesieve.sieve.schedule import StreamSchedule
from finesieve.sieve.sieve import Sieve
from finesieve.sieve.table import Table

TWICE = (
    "a sieve is attached to this trainer already: make the trainer anew, or detach the first sieve"
)


def placed(batch: Any, device: torch.device) -> Any:
    """Returns the batch with all its tensors on the device, without waiting for it on CUDA."""
    if isinstance(batch, Tensor):
        return to_device(batch, device)
    if isinstance(batch, Mapping):
        return of_kind(type(batch), {key: placed(value, device) for key, value in batch.items()})
    if isinstance(batch, (tuple, list)):
        moved = [placed(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


@contextmanager
def on_host(loader: Any) -> Iterator[Callable[[Any], Any]]:
    """Lets a loader of Accelerate's leave its batches on the host, inside: there a sieve can take
    them apart without waiting for the device.

    Yields:
        A function that moves a batch to where the loader would have put it.
    """
    # A `DataLoaderDispatcher` has no device: it moves batches to the device of its `state`.
    kind = getattr(sys.modules.get("accelerate.data_loader"), "DataLoaderDispatcher", ())
    name = "state" if isinstance(loader, kind) else "device"
    found: Any = getattr(loader, name, None)
    where = found.device if name == "state" else found
    device = None if where is None else torch.device(where)
    if device is None or device.type == "cpu":
        yield lambda batch: batch
        return
    setattr(loader, name, _OnHost(found) if name == "state" else None)
    try:
        yield partial(placed, device=device)
    finally:
        setattr(loader, name, found)


class _OnHost:
    """Accelerate's state of a process, but for its device: that is the CPU."""

    device = torch.device("cpu")

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


_OTHERS = {  # what a `Sieve` takes and a host does not
    "options": "give the fields of SieveOptions one by one, as in pool=128",
    "model": "it has the host's",
    "scorer": "its scoring pass is of the host's model; head= or losses= say what a loss is",
}


def check_method(
    method: Recipe | Method | str | None,
    options: Mapping[str, Any],
    where: str,
    by_steps: bool = False,
) -> None:
    """Raises `ConfigError` for a method that needs more than a stream of batches gives, and for
    settings that a sieve does not have.

    Args:
        method: as in `Sieve`.
        options: further settings of the sieve; `id_key` is the column of ids, if any.
        where: who runs it, for the message.
        by_steps: whether whoever runs it makes the learning rate follow the share of the stream.
    """
    for name, how in _OTHERS.items():
        if name in options:
            raise SettingError(f"{where} takes no {name}=: {how}")
    check_names(options, SET)
    made = method_of(method, 0)
    wrong = ""
    if made.needs_reference:
        wrong = "needs a reference model trained beforehand"
    elif by_steps and made.schedule_by == "steps":
        wrong = "has a learning rate that goes by steps"
    if wrong:
        raise ConfigError(
            f"method {made.name!r} {wrong}, which {where} does not have: run it "
            f"with `finesieve train --method {made.name}`"
        )
    if made.needs_ids and options.get("id_key") is None:
        raise ConfigError(
            f"method {made.name!r} remembers losses from pass to pass, so it needs "
            "ids that stay the same: give id_key=, the name of a column of them"
        )


class Handle:
    """What the user has of a sieve inside a host, and asks for results.

    Attributes:
        sieve: of the training under way or done last; None before.
    """

    sieve: Sieve | None

    def figures(self) -> dict[str, float]:
        """Returns what `Sieve.figures` does, for logs; nothing before there is a sieve."""
        return {} if self.sieve is None else self.sieve.figures()

    @property
    def insights(self) -> Table:
        """What this run showed of each example: see `Sieve.insights`; empty before training."""
        return Record().table() if self.sieve is None else self.sieve.insights


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


class Driven(Wrapper, StreamSchedule, LRScheduler):
    """A host's learning-rate schedule, driven by the share of the stream consumed.

    What a schedule has besides is asked of the one within. Lightning takes none but PyTorch's
    class; its constructor is left out, since it would step the optimizer's rate.

    Args:
        inner: the schedule, built for `steps` steps.
        steps: those of plain training.
        progress: tells the share of the stream consumed, 0 to 1.
        due: tells whether the optimizer has just made a step, where a host steps the schedule with
            every batch that it accumulates.
    """

    def __init__(
        self,
        inner: Any,
        steps: int,
        progress: Callable[[], float],
        due: Callable[[], bool] | None = None,
    ) -> None:
        StreamSchedule.__init__(self, inner, steps, progress)
        self._inner, self._due = inner, due

    @property
    def optimizer(self) -> Any:  # type: ignore[override]
        """The optimizer whose rate it is."""
        return self._inner.optimizer

    def step(self, *_: Any) -> None:
        """Steps the schedule as far as the stream has come; to be called after each step of the
        optimizer, or after each batch where `due` tells."""
        if self._due is None or self._due():
            StreamSchedule.step(self)

    def get_last_lr(self) -> Any:
        """Returns the rates of the last step, one for each group of parameters."""
        return self._inner.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return StreamSchedule.state_dict(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        StreamSchedule.load_state_dict(self, state_dict)


class Most:
    """The largest of the numbers that were added, kept on their device and read without waiting.

    On a GPU a reading sends for the numbers so far and gives those that were sent for at the one
    before, which have come by then.
    """

    def __init__(self) -> None:
        self._most: Tensor | None = None  # float[k]
        self._sent: tuple[Tensor, torch.Event] | None = None
        self._new = False  # whether anything was added since they were sent for

    def add(self, numbers: Tensor) -> None:
        """Adds numbers, float[k]; one that is no number counts as 0."""
        numbers = numbers.nan_to_num(0.0, 0.0, 0.0)
        self._most = numbers if self._most is None else torch.maximum(self._most, numbers)
        self._new = True

    def read(self, wait: bool = False) -> list[float] | None:
        """Returns the largest numbers, k of them, as far as they are known; None before that, and
        where nothing was added since they were sent for: a device may not have come to it yet.

        Args:
            wait: whether to wait for a device.
        """
        if self._most is None:
            return None
        event = mark(self._most.device)
        if wait or event is None:
            return list(self._most.cpu().tolist())
        if not self._new:
            return None
        self._new = False
        sent, copy = self._sent, self._most.to("cpu", non_blocking=True)
        event.record(torch.cuda.current_stream(self._most.device))
        self._sent = copy, event
        if sent is None:
            return None
        sent[1].synchronize()
        return list(sent[0].tolist())

    def __bool__(self) -> bool:
        """Returns whether anything was added."""
        return self._most is not None


def unserved(
    *, sharded: str = "", several_gpus: bool = False, mesh: bool = False, dispatched: str = ""
) -> list[str]:
    """Returns a sentence for each thing about a host that a sieve cannot be served with: what is
    wrong, and what to set instead.

    Args:
        sharded: empty, or how this host calls what shards the model, and what to use instead.
        several_gpus: whether one process trains on several GPUs.
        mesh: whether the host spreads the model over a mesh of devices.
        dispatched: empty, or the setting by which the first rank does not draw for the others.
    """
    wrong = [sharded] if sharded else []
    if several_gpus:
        wrong.append(
            "several GPUs in one process (DataParallel): start one process a GPU "
            "(torchrun), or show it one GPU (CUDA_VISIBLE_DEVICES)"
        )
    if mesh:
        wrong.append(
            "a parallelism_config shards the model or gives several ranks the same "
            "batches: use plain data-parallel training, without one"
        )
    if dispatched:
        wrong.append(
            "batches dispatched by the first rank are drawn by all ranks at the same "
            f"time, but each sieve draws as many as it needs: {dispatched}"
        )
    return wrong


def sized(loader: Any) -> bool:
    """Returns whether a loader knows its length."""
    try:
        len(loader)
    except TypeError:
        return False
    return True


def examples(loader: Any, batch_size: int | None, ranks: int = 1) -> int | None:
    """Returns how many examples one rank draws in one pass; None if it cannot be known.

    Args:
        loader: of batches.
        batch_size: of one rank.
        ranks: those among which the loader's sampler is divided by the host; 1 where it gives each
            rank its own part.
    """
    if batch_size is None or not sized(loader):
        return None
    most = len(loader) * batch_size
    dataset = getattr(loader, "dataset", None)  # a stream that knows its length has no such sampler
    for told in (getattr(loader, "sampler", None), dataset):
        if ranks == 1 and told is not None and sized(told):
            return min(most, len(told))
    return most


# ---- the random state of the process (a GPU's apart, which no loader draws from)


def random_state() -> dict[str, Any]:
    """Returns the random states of Python, NumPy and PyTorch; they load with
    `weights_only=True`."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Sets the random state that a loader draws its order from."""
    kind, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
