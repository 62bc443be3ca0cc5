"""The train loader of a Trainer with a sieve: filtered, and right where passes begin and end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import chain, islice
from typing import Any, Protocol

from accelerate import skip_first_batches

from finesieve.batches.carry import FILLER, WEIGHTS, is_filler, rides
from finesieve.integrations import common as hosts
from finesieve.integrations.accelerate import generators
from finesieve.sieve.sieve import Sieve


class Host(Protocol):
    """What the loader needs of the object that is attached to the trainer.

    Attributes:
        trainer: of transformers.
        sieve: None before training begins.
        filters: whether the method ever leaves anything out.
        epochs: passes over the data; None if the trainer was given a number of steps.
        begun: random states when the pass under way began.
    """

    trainer: Any
    sieve: Sieve | None
    filters: bool
    epochs: int | None
    begun: dict[str, Any]

    def yielded(self, batch: Any) -> Any:
        """Returns a batch of the sieve's, as the trainer's own are."""
        ...

    def folded(self, batch: Any) -> Any:
        """Returns a batch of the trainer's with one row for each example."""
        ...

    def drawn(self, batches: Any) -> Iterator[Any]:
        """Yields the loader's batches on their way into the sieve."""
        ...


class FilteredLoader(hosts.Wrapper):
    """The train loader as the trainer sees it: filtered, and else the one that it wraps.

    Its length is an upper bound, reached if all examples came in batches of survivors, and only
    where the trainer counts epochs by it; with `max_steps` it has none.
    """

    def __init__(self, attached: Host, inner: Any, length: int | None) -> None:
        self._attached, self._inner, self._length = attached, inner, length
        self._under_way: Generator[Any, None, None] | None = None
        self._skip = attached.sieve.position if attached.sieve is not None else 0
        self._place: Callable[[Any], Any] = lambda batch: batch  # to where the trainer trains

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("the number of survivors is not known beforehand")
        return self._length

    def __iter__(self) -> Iterator[Any]:
        attached = self._attached
        sieve = attached.sieve
        assert sieve is not None
        count, fresh, resumed = 0, False, self._skip > 0
        while not fresh or (resumed and count == 0):  # saved with a pass's last step: the next one
            fresh = self._under_way is None  # else what the trainer left of the pass before
            if fresh:
                if (
                    attached.filters
                    and attached.epochs is not None
                    and (sieve.passes >= attached.epochs)
                ):
                    return  # resumed: the trainer counts passes by plain training's steps
                self._under_way = self._pass(sieve)
            assert self._under_way is not None
            for batch in self._under_way:
                count += 1
                yield self._place(attached.yielded(_noted(batch)))
            self._under_way = None
        every = attached.trainer.args.gradient_accumulation_steps
        if attached.filters and count not in (0, self._length):
            for _ in range(-count % every):  # the last step of a pass shall be made, not left
                yield self._place(attached.yielded(_noted(sieve.filler())))

    def close(self) -> None:
        """Enters the last step into the books: a trainer that has made them all asks for no
        more."""
        if self._under_way is not None:
            self._under_way.close()
            self._under_way = None
            if self._attached.sieve is not None:
                self._attached.sieve.finish()

    def _pass(self, sieve: Sieve) -> Generator[Any, None, None]:
        """Yields the batches of one pass through the sieve.

        The first batch is drawn at once: on several ranks Accelerate may synchronise the order of
        the data there, which has to come at the same place among the collectives on every rank, and
        a sieve draws nothing as long as it has batches left from the pass before.
        """
        attached, inner, skip, self._skip = self._attached, self._inner, self._skip, 0
        if skip > 1:  # but for the last of them, which shows whether the order is the same
            inner = skip_first_batches(inner, skip - 1)
        if hasattr(inner, "set_epoch"):  # the trainer does not always know which pass begins
            inner.set_epoch(sieve.passes)
        now, begun = _random_states(inner), attached.begun
        if begun:
            _set_random_states(inner, begun)
        else:
            attached.begun = now
        with hosts.on_host(inner) as self._place:
            with sieve.ledger.spending("data"):
                batches = iter(inner)
                for batch in islice(batches, min(skip, 1)):
                    sieve.check_place(attached.folded(batch))
                batches = chain(list(islice(batches, 1)), batches)
            if begun:  # the checkpoint's random state has what starting a loader draws behind it
                hosts.set_random_state(now["process"])
            yield from sieve(attached.drawn(batches), positioned=True)
        attached.begun = {}


def _noted(batch: Any) -> Any:
    """Returns a batch with what its weights say of it, read while they are on the host: none where
    all are 1, and a mark in a filler. What no sieve made comes back as it is."""
    if not rides(batch):
        return batch
    if bool((batch[WEIGHTS] == 1).all()):
        del batch[WEIGHTS]
    elif is_filler(batch):
        batch[FILLER] = True
    return batch


def _random_states(loader: Any) -> dict[str, Any]:
    """Returns what the order of a pass may be drawn from, when it begins."""
    return {
        "process": hosts.random_state(),
        "generators": [generator.get_state() for generator in generators(loader)],
    }


def _set_random_states(loader: Any, states: dict[str, Any]) -> None:
    hosts.set_random_state(states["process"])
    for generator, state in zip(generators(loader), states["generators"], strict=True):
        generator.set_state(state)
