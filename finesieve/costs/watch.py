"""A stopwatch with a mark wherever the kind of work changes, read when the device is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from finesieve.costs.pace import Pace
from finesieve.costs.timer import ProgramTimer, Timer, timer_on

DATA = "data"  # the kind of work that waits for the loader


class Step(NamedTuple):
    """What was done in a span.

    Args:
        tokens, padded: of all batches, without padding and with it.
        shape: of the last batch, examples and longest text, to know its first launch by.
    """

    pace: Pace
    tokens: int
    padded: int
    shape: tuple[int, int] | None = None
    batches: int = 1

    @classmethod
    def of(cls, pace: Pace, examples: int, tokens: int, longest: int) -> Step:
        """Returns a step of one batch of texts.

        Args:
            pace: of the kind of work.
            examples: texts in the batch.
            tokens: of all of them, without padding.
            longest: tokens of the longest, to which the others are padded.
        """
        return cls(pace, tokens, examples * longest, (examples, longest))


class _Span(NamedTuple):
    on: str
    first: Any
    last: Any
    step: Step | None
    part: bool  # more of the same step is to come
    aside: float = 0.0  # seconds in which the host waited for data


class Spending:
    """Books on a kind of work what is done inside (see `Watch.spending`)."""

    __slots__ = ("_before", "_on", "_watch")

    def __init__(self, watch: Watch, on: str, before: str | None) -> None:
        self._watch, self._on, self._before = watch, on, before

    def __enter__(self) -> None:
        self._watch.turn(self._on)

    def __exit__(self, *error: object) -> None:
        self._watch.turn(self._before)


class Aside:
    """Books on the data what the program waits inside (see `Watch.spending`)."""

    __slots__ = ("_begin", "_watch")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._watch.waited(time.perf_counter() - self._begin)


class Watch:
    """Books the seconds of each kind of work, and gives the paces what a step took.

    The end of one span is the beginning of the next. Where the program runs ahead of the device,
    spans wait in a queue until the device has come to their end: nothing waits for the sake of a
    clock unless somebody asks for all of them.

    Args:
        kinds: of work.
        timer: what tells the time, where it is given.
        devices: asked where the work is done, when a pass begins.
        seconds: read so far, of each kind.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        timer: Timer | None,
        devices: Callable[[], Sequence[torch.device]] = tuple,
    ) -> None:
        self.seconds = dict.fromkeys(kinds, 0.0)
        self.timer: Timer = timer or ProgramTimer()
        self._given, self._ask = timer is not None, devices
        self._devices: list[torch.device] | None = None  # not looked for yet
        self._queue: deque[_Span] = deque()
        self._on: str | None = None
        self._since: Any = None
        self._part = 0.0  # seconds of a step that was interrupted
        self._aside = 0.0  # seconds of the program's clock, of the span under way

    def locate(self) -> None:
        """Looks where the work is done: a model may have been moved since."""
        if self._given or (found := list(self._ask())) == self._devices:
            return
        self.read(wait=True)
        self._devices, self.timer = found, timer_on(found)
        if self._on is not None:
            self._since = self.timer.mark()

    def turn(self, to: str | None, step: Step | None = None, *, part: bool = False) -> None:
        """Ends the span under way; from here on the time is of another kind of work.

        Args:
            to: the kind; None for time that is booked nowhere.
            step: what was done in the span that ends here.
            part: whether the step is not over, and what follows, up to the next batch, is none of
                it.
        """
        if to == self._on and step is None:
            return
        now = self.timer.mark()
        if self._on is not None or step is not None:
            first = now if self._on is None else self._since
            on = self._on or "train"
            if self.timer.ahead:
                self._queue.append(_Span(on, first, now, step, part, self._aside))
            else:
                self._book(on, self.timer.between(first, now), step, part, self._aside)
            self._aside = 0.0
        self._on, self._since = to, now

    def pause(self) -> None:
        """Books nothing until the next batch is asked for: training stands still, the host
        evaluates or saves."""
        if self._on is not None:
            self.turn(None, part=True)

    def spending(self, on: str) -> Spending | Aside:
        """Books the time that passes inside on a kind of work, and what follows as before.

        Waiting for data is no work of a device that runs ahead: of the time that it stood still, as
        much goes to the data as the program waited for them, without marks of its own.
        """
        if on == DATA and self._on is not None and self.timer.ahead:
            return Aside(self)
        return Spending(self, on, self._on)

    def waited(self, seconds: float) -> None:
        """Notes that the program waited for data, in the span under way."""
        self._aside += seconds

    def read(self, wait: bool = False) -> None:
        """Books the spans that are over on the device.

        Args:
            wait: whether to wait for the device, and so to book all of them.
        """
        queue, timer = self._queue, self.timer
        while queue and (wait or timer.reached(queue[0].last)):
            span = queue.popleft()
            took = timer.between(span.first, span.last)
            self._book(span.on, took, span.step, span.part, span.aside)

    def _book(self, on: str, took: float, step: Step | None, part: bool, aside: float) -> None:
        """Books a span that is over."""
        if took > 0.0:  # a clock that was set back, or a device that was lost, says nothing
            if aside:
                aside = min(took, aside)
                self.seconds[DATA] += aside
            self.seconds[on] += took - aside
        if part or (step is not None and step.batches == 0):
            self._part += took
        elif step is not None:
            whole = took
            if on == "train":
                whole, self._part = self._part + took, 0.0
            if self.timer.trusted and whole >= 0.0:
                step.pace.add(whole, step.tokens, step.batches, step.padded, step.shape)
