"""One pass over the loader: what is drawn when, what is yielded, and what a step took.

Several ranks end a pass together, when none has anything left: one that has nothing yields fillers
until then. A pass that was interrupted goes on where it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from finesieve.batches.rows import Rows
from finesieve.errors import FinesieveWarning, StateError
from finesieve.sieve.beginning import Beginning
from finesieve.sieve.flow import Flow
from finesieve.sieve.place import Place
from finesieve.sieve.rehearsal import Rehearsal
from finesieve.sieve.together import Together

_END = object()


class Loop:
    """Makes passes over a loader, one after another.

    Args:
        ahead: batches taken by a host that was interrupted, and not trained on.
        resumed: whether the next pass is one that was interrupted.
        last: batches of the last pass, trained on and drawn.
        place: of the batch drawn last.
        total: examples of the stream, if that is known.
    """

    def __init__(
        self, flow: Flow, beginning: Beginning, together: Together, total: int | None
    ) -> None:
        self._flow, self._beginning, self._together = flow, beginning, together
        self._total = total if flow.method.filters else None  # None once that was warned of, too
        self._rehearsal = Rehearsal(flow.codec, flow.method.filters)
        self.place = Place(flow.codec.has_ids)
        self.ahead: list[Rows] = []
        self.resumed = False
        self.last = 0, 0

    def one_pass(self, batches: Iterable[Any], positioned: bool) -> Iterator[Any]:
        """Yields the batches of a pass.

        Args:
            positioned: whether the loader of an interrupted pass starts where it was interrupted.

        Raises:
            ConfigError: for a model that is sharded over several ranks.
            StateError: if the loader ends before the place where its pass was interrupted.
        """
        watch = self._flow.ledger.watch
        watch.locate()
        watch.turn("decide")
        try:
            yield from self._batches(batches, positioned)
        finally:
            watch.turn(None)

    def _batches(self, batches: Iterable[Any], positioned: bool) -> Iterator[Any]:
        flow, ledger = self._flow, self._flow.ledger
        self._together.find()
        if self._together.several and (flow.method.scores or self._beginning.wanted):
            flow.scoring.check_alone()
        if flow.meter.drawn == 0 and not self.resumed:
            flow.for_rank(self._together.rank)  # where the process group was not there before
        iterator = iter(batches)
        with ledger.spending("data"):
            resumed, self.resumed = self.resumed, False
            if resumed:
                iterator = self._resume(iterator, positioned)
            else:
                flow.counters.batches_in_pass = 0
        if self._beginning.wanted and not resumed and flow.meter.drawn == 0:
            iterator = self._beginning.read(iterator, self._together.mean)
        exhausted, made = False, 0
        while True:
            while not self.ahead and not flow.holding.ready and not exhausted:
                with ledger.spending("data"):
                    batch = next(iterator, _END)
                if batch is _END:
                    exhausted = True
                    flow.flush()
                elif (drawn := flow.draw(batch)) is not None:
                    self._look_at(drawn)
                    self._beginning.try_out(drawn)
                    flow.put(drawn)
            if self.ahead:  # counted and agreed on when it was yielded first
                rows, opened = self.ahead.pop(0), flow.stage == 1
            else:
                if exhausted and not flow.holding.ready:
                    flow.counters.released += flow.holding.take_idle()
                if not self._agree():
                    break
                rows, opened = flow.next()
            real = len(rows) > 2 or bool(rows.weights.any())  # and no filler
            made += real
            out = flow.codec.pack(rows)
            if real:
                flow.meter.begin(opened, len(rows), rows.tokens, rows.longest)
            ledger.watch.turn("train")
            try:
                yield out
            finally:
                ledger.watch.turn("decide", flow.meter.trained(flow.learning.told()))
        flow.learning.absorb(flow.stage)
        self.last = made, flow.counters.batches_in_pass
        flow.counters.batches_in_pass = 0
        flow.counters.passes += 1

    def plain_pass(self, batches: Iterable[Any], positioned: bool) -> Iterator[Any]:
        """Yields the batches of a pass as the loader has them. Their examples are counted, so that
        schedules go on to their end. Before them come batches that a host had taken when it was
        interrupted.

        Args:
            positioned: as in `one_pass`.

        Raises:
            StateError: as in `one_pass`.
        """
        flow, counters = self._flow, self._flow.counters
        self._together.find()
        flow.let_go()
        self.place.take_up(None)  # what is not taken apart leaves no mark
        iterator = iter(batches)
        resumed, self.resumed = self.resumed, False
        if resumed:
            iterator = self._resume(iterator, positioned)
        else:
            counters.batches_in_pass = 0
        while self.ahead:
            yield flow.codec.pack(self.ahead.pop(0))
        for batch in iterator:
            flow.pass_by(batch)
            if flow.total is not None:
                counters.progress = self._together.mean([flow.consumed()])[0]
            yield batch
        counters.batches_in_pass = 0
        counters.passes += 1

    def riding(self, batch: Any) -> Any:
        """Returns a batch of the loader's in the form that the sieve yields, with weights of 1.

        Its ids are -1, so that nothing is learned from its losses. It is for a saved state: a host
        has taken the batch and not trained on it yet.
        """
        rows = self._flow.codec.unpack(batch, 0)
        rows.ids[:] = -1
        return self._flow.codec.pack(rows)

    def may_exceed_total(self) -> None:
        """Takes more examples than `total` for no reason to warn, from now on."""
        self._total = None

    def check_place(self, batch: Any) -> None:
        """Raises `StateError` if this is not the batch drawn last before the interruption."""
        self.place.check(self._flow.codec.unpack(batch, 0), self._flow.counters.batches_in_pass)

    def _look_at(self, drawn: Rows) -> None:
        """Remembers the place, and warns of what would go wrong later."""
        flow = self._flow
        self.place.note(drawn, given=flow.passes)
        if flow.passes and flow.filler is not None:
            self._rehearsal.see(flow.filler, drawn)
        if self._total is None or flow.meter.drawn <= self._total + (flow.loaders or 0):
            return
        cause = (
            "total counts the examples of all passes: epochs * len(data)"
            if flow.counters.passes
            else "total counts examples and not batches, of this rank alone"
        )
        warnings.warn(
            f"{flow.meter.drawn} examples were drawn, and total={self._total}: {cause}. From here "
            "on the stream counts as consumed, so the learning rate stays where its schedule ends",
            FinesieveWarning,
            stacklevel=4,
        )
        self._total = None

    def _resume(self, iterator: Iterator[Any], positioned: bool) -> Iterator[Any]:
        """Leaves out what had been drawn, and puts what waits where the loader's batches are."""
        flow = self._flow
        skip = flow.counters.batches_in_pass
        for done in range(0 if positioned else skip):
            batch = next(iterator, _END)
            if batch is _END:
                raise StateError(
                    f"the interrupted pass had drawn {skip} batches, but the "
                    f"loader ends after {done}: it is another loader, or is positioned "
                    "already (then call sieve(loader, positioned=True))"
                )
            flow.codec.note(batch)
            if done == skip - 1:
                self.check_place(batch)
        # What waits goes out before anything is drawn: in the loader's own form.
        first = list(islice(iterator, 1))
        for batch in first:
            flow.codec.note(batch)
            flow.place_like(batch, self.ahead)
        return chain(first, iterator)

    def _agree(self) -> bool:
        """Settles with the other ranks, once a batch, whether any has one left; moves to another
        stage if their averages say so. Returns whether any has."""
        flow = self._flow
        costs = flow.meter.score, flow.meter.train
        evidence = flow.transitions.evidence(
            flow.meter.drawn, flow.counters.passes, costs, flow.work, flow.smaller()
        )
        settled = self._together.settle(
            ready=flow.holding.ready,
            empty=flow.filler is None,
            consumed=flow.consumed(),
            evidence=evidence,
            gates=(flow.method.forward, flow.method.backward),
        )
        flow.counters.progress = settled.consumed
        move = flow.transitions.due(settled.evidence)
        if move is not None:
            flow.move(*move)
        return settled.ready
