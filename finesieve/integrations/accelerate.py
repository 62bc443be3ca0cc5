"""Hugging Face Accelerate: a plain loop over `FilteredLoader(accelerator, loader, model)`.

While the gates are open, or with the method "full", the loop ends at the same weights as without
finesieve, to the bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

try:
    from accelerate import Accelerator, skip_first_batches
    from accelerate.data_loader import (
        DataLoaderDispatcher,
        DataLoaderShard,
        SeedableRandomSampler,
    )
except ImportError as error:
    from finesieve.errors import install

    raise ImportError(
        f"finesieve.integrations.accelerate needs {error.name}: {install('hf')}"
    ) from None

from finesieve.errors import ConfigError, FinesieveWarning, StateError, is_whole
from finesieve.integrations import common as hosts
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe
from finesieve.scoring.mode import unwrapped
from finesieve.scoring.protocol import Scorer
from finesieve.sieve.options import SieveOptions, scorer_of
from finesieve.sieve.ranks import Alone, Ranks
from finesieve.sieve.schedule import StreamSchedule
from finesieve.sieve.sieve import Sieve

__all__ = ["FilteredLoader"]
_END = object()
_MADE: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # accelerator -> loaders filtered so far


class FilteredLoader(hosts.Handle):
    """A prepared loader, filtered: `for batch in stream:` once an epoch, and
    `accelerator.backward(stream.loss(losses, batch))` for the loss.

    Under `accelerator.accumulate` each optimizer step has all its batches but the last of a pass,
    as in plain Accelerate. Where a pass ends without warning, because nothing survived of its end,
    one more batch, of weight 0, completes the step (`finesieve.is_filler`).

    `accelerator.save_state` saves the stream with everything else (`finesieve-0-rank0.pt`), and its
    schedule. To resume: make everything anew, `accelerator.load_state(...)`, and go on with `for
    epoch in range(stream.passes, epochs)`. The loader must draw its order when a pass starts, as
    samplers do; that random state is kept.

    Args:
        loader: as `accelerator.prepare` returned it. Each rank filters its own part.
        model: the prepared model, whose task is found from its class (`head=` or `scorer=` say
            otherwise); it is scored without its DistributedDataParallel, in the mixed precision
            that Accelerate gave its forward. For a loss under `with accelerator.autocast():` give
            the scorer `autocast=accelerator.autocast`.
        epochs: passes over the loader in all, from which the stream's length follows.
        options: further settings of `Sieve`. `total` counts the examples of this rank alone and is
            needed only where the loader does not tell its length or its batches' size.

    Raises:
        ConfigError: for what cannot be served rightly, with the setting to change.
    """

    sieve: Sieve

    def __init__(
        self,
        accelerator: Accelerator,
        loader: Any,
        model: Any = None,
        method: Recipe | Method | str | None = None,
        *,
        epochs: int = 1,
        **options: Any,
    ) -> None:
        scorer = scorer_of(
            model,
            options.pop("head", None),
            options.pop("scorer", None),
            SieveOptions(
                autocast=options.pop("autocast", None), prefix=options.pop("prefix", None)
            ),
        )
        _check(accelerator, loader, scorer, epochs)
        hosts.check_method(method, options, "a filtered loader")
        self._accelerator, self._loader, self._epochs = accelerator, loader, epochs
        ranks, device = accelerator.num_processes, accelerator.device
        settings = {
            "total": _total(loader, epochs, ranks),
            "seed": accelerator.process_index,
            "agreement": Ranks(device=str(device)) if ranks > 1 else Alone(),
            **options,
        }
        self._agreement = settings["agreement"]
        self.sieve = Sieve.of_host(scorer, method, **settings)
        # Accelerate asks these two of the loader that is being iterated over.
        self.end_of_dataloader, self.remainder = False, -1
        self._skip: int | None = None  # batches drawn of an interrupted pass, once that is loaded
        self._ended = False
        self._epoch: int | None = None  # of the pass under way: the loader's may be ahead of it
        self._begun: dict[str, Any] = {}  # random states when the pass under way began
        self._schedule: StreamSchedule | None = None
        self._noticed = False  # that a schedule does not follow the stream
        self._number = _MADE.get(accelerator, 0)
        _MADE[accelerator] = self._number + 1
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def schedule(self, schedule: Any, steps: int | None = None) -> StreamSchedule:
        """Returns the schedule, driven by the share of the data consumed; `step()` it after each
        batch.

        Args:
            schedule: any, prepared by Accelerate or not, built as for the loop without finesieve.
            steps: how often that loop's optimizer steps on one rank in all passes; by default it
                follows from the loader's length and the batches accumulated.

        Raises:
            ConfigError: without `steps`, for a loader without a length.
        """
        host = self._accelerator
        if steps is None:
            if not hosts.sized(self._loader):
                raise ConfigError("the loader has no length: give stream.schedule(..., steps=...)")
            steps = self._epochs * -(-len(self._loader) // host.gradient_accumulation_steps)
        self._schedule = hosts.Driven(
            schedule,
            steps,
            lambda: self.sieve.progress,
            lambda: host.sync_gradients and not host.optimizer_step_was_skipped,
        )
        return self._schedule

    def loss(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """Returns what `Sieve.loss` does: the weighted mean, a scalar, for
        `accelerator.backward`."""
        return self.sieve.loss(losses, batch, sizes)

    def reduce(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """Returns what `loss` does: its name of version 0.1."""
        warnings.warn(
            "FilteredLoader.reduce goes with version 0.3: use FilteredLoader.loss",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.loss(losses, batch, sizes)

    @property
    def passes(self) -> int:
        """Passes over the data completed."""
        return self.sieve.passes

    def detach(self) -> None:
        """Stops filtering, as `Sieve.detach` does: from the next pass on the loader's batches come
        as they are, and the schedule goes on to its end."""
        self.sieve.detach()

    # ---- one pass

    def __iter__(self) -> Iterator[Any]:
        with hosts.on_host(self._loader) as place, closing(self._filtered()) as batches:
            for batch in batches:
                yield place(batch)

    def _filtered(self) -> Generator[Any, None, None]:
        accelerator, loader, begun = self._accelerator, self._loader, False
        self._notice_schedules()
        grouping = accelerator.gradient_state
        epoch = self._epoch = loader.iteration
        source, drawn = self._start(epoch)
        self.end_of_dataloader = False
        # After the loader within, so that Accelerate asks this one whether a pass ends.
        grouping._add_dataloader(self)
        try:
            for batch in self.sieve(drawn, positioned=True):
                begun = True
                if grouping.num_steps > 1:
                    self.end_of_dataloader = self._is_last()
                yield batch
            loader.iteration, self._epoch = epoch + 1, None
            unmade = accelerator.step % grouping.num_steps != 0 and grouping.sync_with_dataloader
            if unmade and begun:
                self.end_of_dataloader = True
                yield self.sieve.filler()
        finally:
            grouping._remove_dataloader(self)
            grouping._remove_dataloader(source)

    def _notice_schedules(self) -> None:
        """Warns once of a prepared schedule that this stream does not drive: the loop steps it."""
        prepared = getattr(self._accelerator, "_schedulers", ())
        known = self._schedule is not None or not self.sieve.method.filters
        if prepared and not known and not self._noticed:
            self._noticed = True
            self.sieve.rates.known()  # said once is enough
            warnings.warn(
                "a schedule was prepared that steps with the optimizer, and nobody knows "
                "beforehand how often that is: decay = stream.schedule(decay) follows the share "
                "of the data consumed (a loop that counts its steps needs none)",
                FinesieveWarning,
                stacklevel=3,
            )

    def _start(self, epoch: int) -> tuple[Any, Iterator[Any]]:
        """Returns the loader and an iterator over its batches.

        After an interruption both start at the batch where the pass was interrupted.
        The first batch is drawn at once: on several ranks Accelerate synchronises random states
        there, which has to come at the same place among the collectives on every rank, and a sieve
        draws nothing as long as it has batches left from the pass before.
        """
        loader, skip, self._skip = self._loader, self._skip, None
        # But for the last of them, which shows whether the order is the same.
        source = skip_first_batches(loader, skip - 1) if skip and skip > 1 else loader
        source.set_epoch(epoch)
        now = hosts.random_state()
        if skip is not None:  # 0 where a rank has batches left of the pass before
            hosts.set_random_state(self._begun["process"])
            self._set_generators(self._begun["generators"])
        else:
            self._begun = {"process": now, "generators": self._generators()}
        with self.sieve.ledger.spending("data"):
            iterator = iter(source)
            for batch in islice(iterator, min(skip or 0, 1)):
                self.sieve.check_place(batch)
            first = next(iterator, _END)
        if skip is not None:
            hosts.set_random_state(now)
        self._ended = False
        return source, self._follow(source, first, iterator)

    def _follow(self, source: Any, batch: Any, rest: Iterator[Any]) -> Iterator[Any]:
        while batch is not _END:
            self._ended = source.end_of_dataloader
            yield batch
            batch = next(rest, _END)
        self._ended = True

    def _is_last(self) -> bool:
        """Returns whether all ranks know that they have nothing after the batch at hand."""
        known = self._ended and self.sieve.held + self.sieve.undrawn == 0
        return bool(self._agreement.mean([float(known)])[0] >= 1.0)

    # ---- state

    def _generators(self) -> list[Tensor]:
        return [generator.get_state() for generator in generators(self._loader)]

    def _set_generators(self, states: list[Tensor]) -> None:
        found = generators(self._loader)
        if len(found) != len(states):
            raise StateError(
                f"the state is of a loader with {len(states)} random generators, "
                f"this one has {len(found)}"
            )
        for generator, state in zip(found, states, strict=True):
            generator.set_state(state)

    def _file(self, folder: str) -> Path:
        rank = self._accelerator.process_index
        return Path(folder) / f"finesieve-{self._number}-rank{rank}.pt"

    def _save(self, models: list[nn.Module], weights: list[Any], folder: str) -> None:
        # Not by `register_for_checkpointing`, which would save the first rank's alone.
        torch.save(
            {
                "ranks": self._accelerator.num_processes,
                "sieve": self.sieve.state_dict(),
                "epoch": self._loader.iteration if self._epoch is None else self._epoch,
                "under_way": self._epoch is not None,
                "begun": self._begun,
                "generators": self._generators(),
                "schedule": None if self._schedule is None else self._schedule.state_dict(),
            },
            self._file(folder),
        )

    def _load(self, models: list[nn.Module], folder: str) -> None:
        path, ranks = self._file(folder), self._accelerator.num_processes
        if not path.exists():
            raise StateError(
                f"{folder} has no {path.name}: it was saved without a sieve, or by fewer ranks"
            )
        state = torch.load(path, weights_only=True)
        if state["ranks"] != ranks:
            raise StateError(
                f"the state was saved by {state['ranks']} ranks, and there are "
                f"{ranks}: each goes on with its own part of the data"
            )
        if (state["schedule"] is None) != (self._schedule is None):
            raise StateError(
                "call stream.schedule(...) before accelerator.load_state(...) if the "
                "run that saved the state did, and only then"
            )
        loader = self._loader
        dispatched = isinstance(loader, DataLoaderDispatcher)
        device = self._accelerator.device if dispatched else loader.device or "cpu"
        self.sieve.load_state_dict(state["sieve"], device)
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])
        loader.iteration, self._begun = state["epoch"], state["begun"]
        self._set_generators(state["generators"])
        self._skip = self.sieve.position if state["under_way"] else None


def _check(accelerator: Any, loader: Any, scorer: Scorer | None, epochs: Any) -> None:
    """Raises `ConfigError` for what cannot be served rightly, all of it in one message."""
    if not isinstance(accelerator, Accelerator):
        raise ConfigError(f"a {type(accelerator).__name__}; expected an accelerate.Accelerator")
    if type(loader) not in (DataLoaderShard, DataLoaderDispatcher):
        raise ConfigError(
            f"a {type(loader).__name__}; expected the DataLoader that accelerator.prepare returned"
        )
    wrong = []
    if not is_whole(epochs) or epochs < 1:
        wrong.append(f"epochs is {epochs!r}; expected a whole number, 1 or more")
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    sharded = dispatched = ""
    if kind != "NO" and not kind.startswith("MULTI_"):
        sharded = (
            f"distributed type {kind} does not leave each rank a whole model to score "
            "with: use plain data-parallel training (accelerate launch --multi_gpu)"
        )
    if type(loader) is DataLoaderDispatcher and accelerator.num_processes > 1:
        dispatched = "DataLoaderConfiguration(dispatch_batches=False)"
    mesh = not sharded and getattr(accelerator, "torch_device_mesh", None) is not None
    wrong += hosts.unserved(sharded=sharded, mesh=mesh, dispatched=dispatched)
    if loader.use_stateful_dataloader:
        wrong.append(
            "the sieve finds its place in the data itself: "
            "DataLoaderConfiguration(use_stateful_dataloader=False)"
        )
    model = getattr(scorer, "model", None)
    parallel = nn.parallel.DistributedDataParallel
    if model is not None and any(isinstance(m, parallel) for m in unwrapped(model).modules()):
        wrong.append(
            "the scorer's model has DistributedDataParallel inside, whose forward hangs "
            "when ranks score different numbers of batches: give the scorer the "
            "prepared model itself, or accelerator.unwrap_model(model)"
        )
    if wrong:
        raise ConfigError("the loader cannot be filtered: " + "; ".join(wrong))


def _total(loader: Any, epochs: int, ranks: int) -> int | None:
    """Returns how many examples this rank draws in all passes; None if the loader does not tell."""
    batches = loader.batch_sampler
    size = getattr(batches, "batch_size", None)
    if size is None:
        return None
    if getattr(batches, "split_batches", False):
        size //= ranks
    drawn = hosts.examples(loader, size, ranks)
    return None if drawn is None else epochs * drawn


def generators(loader: Any) -> list[torch.Generator]:
    """Returns those random generators of the loader's own that its order may come from (a seedable
    sampler's is seeded with every pass)."""
    of = (loader, loader.dataset, loader.get_sampler())
    found = [
        getattr(loader, "synchronized_generator", None),
        *(getattr(x, "generator", None) for x in of if not isinstance(x, SeedableRandomSampler)),
    ]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
