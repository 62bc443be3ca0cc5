"""The batches of one training: filtered pass by pass, and kept from Lightning's look-ahead on until
they are trained on.

Lightning reads a loader without a length one batch ahead, to know the last batch of an epoch
when it has it (the optimizer steps then, and evaluation follows). No length that could be given
would be right, so the look-ahead stays, and what was yielded is kept until it is trained on: it
goes into the checkpoint, and the schedule follows the batch trained on, not the one ahead.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from finesieve.batches.carry import rides
from finesieve.integrations.lightning.order import generator_of, repeated, samplers
from finesieve.sieve.sieve import Sieve


class Filtered:
    """The train loader as Lightning sees it: filtered, without a length.

    Args:
        batches: gives one epoch of a loader.
        loader: as the user made it.
    """

    def __init__(self, batches: Callable[[Any], Iterator[Any]], loader: Any) -> None:
        self._batches, self._loader = batches, loader

    def __iter__(self) -> Iterator[Any]:
        return self._batches(self._loader)


class Stream:
    """The passes of a sieve over the train loader, cut into Lightning's epochs.

    Attributes:
        progress: share of the stream consumed by the batches trained on, 0 to 1.
        order: random state with which the pass under way began; None between passes. Set before
            the first epoch, it is the state that an interrupted pass began with.
    """

    def __init__(self) -> None:
        self.progress = 0.0
        self.order: Tensor | None = None
        self._pass: Iterator[Any] | None = None
        # Yielded and not trained on yet, with the progress that each brings.
        self._out: deque[tuple[Any, float]] = deque()

    @property
    def ahead(self) -> list[Any]:
        """The batches that were yielded and are not trained on yet, the oldest first."""
        return [batch for batch, _ in self._out]

    def epoch(
        self, sieve: Sieve, loader: Any, most: float, counted: bool, follows: bool
    ) -> Iterator[Any]:
        """Yields the batches of one epoch.

        Args:
            sieve: filters the loader.
            loader: the train loader as the user made it.
            most: passes over the data in all.
            counted: whether an epoch is as many batches as Lightning takes, over as many passes as
                that needs, and not one pass.
            follows: whether the sieve knows how far the stream is.
        """
        left = list(self._out)  # of an epoch that was cut short; its pass goes on
        for batch, _ in left:
            yield copy.copy(batch)
        while True:
            fresh, empty = self._pass is None, True
            if fresh and not left:
                if sieve.passes >= most:
                    return  # resumed at the very end: Lightning looks a batch ahead all the same
                self._pass = self._one_pass(sieve, loader)
            for batch in self._pass or ():
                empty = False
                self._out.append((batch, sieve.progress if follows else 0.0))
                yield copy.copy(batch)  # the step may take it apart
            if not counted or (fresh and empty and not left):
                self._pass = None
                return
            self._pass, left = None, []

    def _one_pass(self, sieve: Sieve, loader: Any) -> Iterator[Any]:
        """Yields the batches of a pass, of one that was interrupted in the order that it had."""
        for part in (loader, *samplers(loader)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(sieve.passes)
        generator, resumed = generator_of(loader), self.order
        if resumed is None:
            self.order = generator.get_state()
            yield from sieve(loader)
        else:
            yield from sieve(repeated(loader, generator, resumed))
        self.order = None

    def begin_step(self) -> None:
        """Notes how far the stream is with the batch that is trained on next."""
        if self._out:
            self.progress = self._out[0][1]

    def end_step(self) -> bool:
        """Forgets the batch that was trained on; returns whether the sieve made it."""
        return bool(self._out) and rides(self._out.popleft()[0])

    def close(self) -> None:
        """Ends the pass under way, and so the loader's workers."""
        self._pass = None
