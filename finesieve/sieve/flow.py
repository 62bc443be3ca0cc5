"""The way of the examples: from the loader's batches through the gates to batches of survivors.

    drawn -> pool -> gates -> held survivors -> next batch

With both gates open (stage 1) the loader's batches pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from finesieve.batches.carry import examples_in
from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows
from finesieve.batches.waiting import GROUP, Holding
from finesieve.costs.ledger import Ledger
from finesieve.costs.meter import Meter, Work
from finesieve.costs.watch import Watch
from finesieve.gates.dice import roll_apart
from finesieve.gates.simple import Open
from finesieve.methods.method import Method
from finesieve.scoring.batches import ScoringPass
from finesieve.scoring.protocol import Scorer
from finesieve.sieve.answers import Answers
from finesieve.sieve.events import Teller
from finesieve.sieve.feedback import Learning
from finesieve.sieve.options import SieveOptions, features_of
from finesieve.sieve.pool import Sifter
from finesieve.sieve.record import Record
from finesieve.stages.prices import POOL
from finesieve.stages.second_look import SecondLook
from finesieve.stages.transitions import Transitions

_TYPICAL_SHARE, _ENOUGH_STEPS = 0.2, 400
_SMALL_GROUP = 4  # batches of survivors that are cut at a time where padding costs nothing
_MORE = 2  # times as many examples a pool where launches are what scoring it takes


@dataclass(slots=True)
class Counters:
    """Where the stream is.

    Args:
        released: examples drawn that the batches handed out stand for.
        progress: share of the stream consumed, the mean over ranks.
        batches_in_pass: drawn in the pass under way.
        passes: completed.
        threshold: the backward gate's, of the last pool.
    """

    released: float = 0.0
    progress: float = 0.0
    batches_in_pass: int = 0
    passes: int = 0
    threshold: float | None = None


class Flow:
    """Owns the parts that examples pass, and everything that waits between two of them.

    Args:
        method: its gates decide.
        scorer: the scoring pass; None where the method does not score.
        options: of the sieve.
        total: examples in the stream, if that is known.
        seed: of the order of batches.
        watch: measures what all of it takes.
        batch_size: survivors a batch, and loaders: examples in the loader's batches; None until the
            first is drawn.
        pool: drawn and not decided on.
        filler: an example or two of weight 0, once something was drawn.
    """

    def __init__(
        self,
        method: Method,
        scorer: Scorer | None,
        options: SieveOptions,
        total: int | None,
        seed: int,
        watch: Watch,
    ) -> None:
        self.method, self.total, self._told_pool = method, total, options.pool
        self.tell, self.record = Teller(options.listeners), Record()
        self.counters = Counters()
        self.codec = Codec(options.pad_values, options.id_key, options.lengths)
        self._told_group = options.group
        self.holding = Holding(self.codec, options.group or GROUP, seed, method.stages.first == 1)
        self.ledger, self.meter = Ledger(watch), Meter()
        self.scoring = ScoringPass(
            scorer,
            self.codec,
            self.ledger,
            self.meter,
            options.scoring_batch,
            options.scoring_overhead,
            options.scoring_precision,
        )
        features = features_of(options, method, scorer)
        self._sifter = Sifter(method, self.codec, self.scoring, features)
        self.answers = Answers.of(scorer)
        self.learning = Learning(
            method,
            scorer,
            self.codec,
            features,
            options.read_ahead,
            self.ledger,
            self.record,
            self.tell,
        )
        limits = method.limits
        self.transitions = Transitions(method.stages, self.learning.window, total, limits)
        self.batch_size = options.batch_size
        self.loaders: int | None = None
        self.pool: list[Rows] = []
        self.filler: Rows | None = None
        self._followed = 0  # examples drawn when prices were followed last
        self.second_look = SecondLook()
        # Where costs are told, nothing is decided by a clock.
        self._priced = method.scores and limits.backward.cost_ratio is None
        self._sized = options.batch_size is None

    @property
    def stage(self) -> int:
        """1: both gates open; 2: the backward gate closed; 3: both closed."""
        return self.transitions.stage

    @property
    def held(self) -> int:
        """The number of examples that were drawn and wait for a decision or for their batch."""
        return sum(map(len, self.pool)) + len(self.holding)

    def for_rank(self, rank: int) -> None:
        """Rolls dice of this rank's own for the gates and for the order of batches."""
        roll_apart((self.method.opening, self.method.forward, self.method.backward), rank)
        self.holding.for_rank(rank)

    def place_like(self, batch: Any, others: Iterable[Rows]) -> None:
        """Puts what waits, and the others, where this batch of the loader's is."""
        self.holding.each(lambda rows: self.codec.place_like(rows, batch))
        for rows in (*self.pool, *others, *([self.filler] if self.filler else [])):
            self.codec.place_like(rows, batch)

    # ---- in: all of it is booked as deciding, which is what the loop is at between two batches

    @property
    def passes(self) -> bool:
        """Whether the loader's batches go to the training step as they are."""
        return self.stage == 1 and isinstance(self.method.opening, Open)

    def draw(self, batch: Any) -> Rows | None:
        """Takes a batch of the loader's apart and counts it; returns None if it is empty."""
        self.learning.absorb(self.stage, at_least=8)
        rows = self.codec.unpack(batch, self.meter.drawn)
        self.counters.batches_in_pass += 1
        if len(rows) == 0:
            return None
        if self.method.filters:
            self.codec.memory.see(rows.columns)
        if self.batch_size is None:
            self.batch_size = self.survivors(len(rows))
        self.scoring.see(rows)
        if self.answers is not None:
            self.answers.see(rows)
        if self.filler is None:
            self.filler = self.codec.filler(rows)
        self._count("drawn", rows)
        self.meter.draw(len(rows), rows.tokens)
        if self.loaders is None:
            self.loaders = len(rows)
        return rows

    def put(self, rows: Rows) -> None:
        """Decides on what was drawn once its pool is full, and holds what survives."""
        if self.passes:
            self.learning.expect(rows, self.stage, len(self.holding))
            self.holding.pass_through(rows)
            if self.tell:
                self.tell({"event": "open", "stage": 1, "ids": rows.ids})
            if self.meter.drawn - self._followed >= self._pool_size(opened=True):
                self._follow(rows)
        else:
            self.pool.append(rows)
            if sum(map(len, self.pool)) >= self._pool_size(opened=self.stage == 1):
                self._sift()

    def _sift(self) -> None:
        """Put the pool through the gates; hold what survives, learn from what was revealed."""
        scores = self.method.scores and self.stage > 1
        rows = self.codec.concat(self.pool)
        self.pool = []
        self._follow(rows)
        shares = self.transitions.shares
        if self.stage == 1:
            found = self._sifter.opened(rows, shares)
        else:
            found = self._sifter.closed(rows, self.stage, self.meter.ratio, shares)
            self.counters.threshold = found.threshold
        self.learning.bad(len(found.bad))
        if self.stage == 3:
            self._count("decided", rows)
        self._count("dropped", rows)
        self._count("dropped", found.survivors, -1)
        if self.tell:
            self.tell(found.event(scores))
        if scores:
            self.learning.scored(found)
        else:
            self.learning.expect(found.survivors, self.stage, len(self.holding), found.chances)
        if self._told_group is None:
            self.holding.group = _SMALL_GROUP if self._whole() else GROUP
        self.holding.add(found.survivors, len(rows), self._size())

    def _follow(self, rows: Rows) -> None:
        """Let prices follow what was measured, once a pool. Nothing waits: what the device has not
        come to yet is read with a later pool.

        Args:
            rows: at hand, for a second look.
        """
        meter, scoring, watch = self.meter, self.scoring, self.ledger.watch
        self._followed = meter.drawn
        watch.read()
        each = meter.drawn_tokens / meter.drawn
        if meter.unscored:
            # A device that runs behind gets as much at once as it can hold.
            pool = self._pool_size(opened=False)
            meter.forward = each * (pool if watch.timer.ahead else min(pool, scoring.most or 1))
        meter.follow(opened=self.stage == 1)
        if watch.timer.ahead and meter.overhead is not None:
            scoring.measured(meter.overhead)
        if self.stage == 1 and self._priced:
            some = np.arange(min(len(rows), self.loaders or 1))
            tokens, drawn = int(rows.lengths[some].sum()), meter.drawn_tokens
            pool = self._pool_size(opened=True)
            if self.second_look.due(drawn, pool * each, lambda: meter.looking(tokens)):
                self.second_look.looked(drawn)
                self.scoring.look(rows, some)

    def flush(self) -> None:
        """Decides on what is drawn and releases all survivors, the last batch maybe smaller."""
        if self.pool:
            self._sift()
        self.holding.release(self._size(), everything=True)

    # ---- past the gates

    def let_go(self) -> None:
        """Drops what waits, left over from a pass that was ended early. It counts as consumed, so
        that a schedule goes on to its end."""
        self.holding.release(self._size(), everything=True)
        while self.holding.ready:
            rows, _, span = self.holding.next()
            self._count("dropped", rows)
            self.counters.released += span
        for rows in self.pool:
            self._count("dropped", rows)
            self.counters.released += len(rows)
        self.pool = []
        self.counters.released += self.holding.take_idle()

    def pass_by(self, batch: Any) -> None:
        """Counts a batch of the loader's that goes past the gates to the training step."""
        count = examples_in(batch)
        self.counters.batches_in_pass += 1
        self.counters.released += count
        if self.loaders is None and count:
            self.loaders = count

    # ---- out

    def next(self) -> tuple[Rows, bool]:
        """Takes out the next batch; returns it, and whether it passed open gates. It is a filler if
        only other ranks have one left."""
        if not self.holding.ready and self.filler is not None:
            return self.filler, self.stage == 1
        rows, opened, span = self.holding.next()
        self._count("yielded", rows)
        self.counters.released += span
        self.meter.hand_out(rows.tokens, opened)
        return rows, opened

    def consumed(self) -> float:
        """Returns the share of the stream consumed, 0 to 1; 0 where its length is not known.

        The batch that comes next counts: the learning rate is for the step after it.
        """
        if not self.total:
            return 0.0
        return min(1.0, (self.counters.released + self.holding.next_span()) / self.total)

    def work(self) -> Work:
        """Returns the tokens trained on and scored so far; those that wait count as trained on."""
        return self.meter.work(
            self.total, self.holding.tokens(opened=True), self.holding.tokens(opened=False)
        )

    # ---- sizes and stages

    def survivors(self, loaders: int) -> int:
        """Returns how many survivors a batch has, given the examples in the loader's batches."""
        if self.batch_size is not None:
            return self.batch_size
        if self.total is not None and self.total * _TYPICAL_SHARE / loaders >= _ENOUGH_STEPS:
            return loaders
        return max(1, round(loaders * self.method.batch_share))

    def smaller(self) -> float:
        """Returns what a token costs in survivors' batches, smaller than the loader's, over what it
        costs in those; 1 where their size was told."""
        if not (self._priced and self._sized and self.loaders and self.batch_size):
            return 1.0
        return self.meter.smaller(min(1.0, self.batch_size / self.loaders))

    def _pool_size(self, opened: bool) -> int:
        """Returns how many examples are decided on together.

        Where launches are most of a step they are most of a scoring pass, too. Twice as many
        examples take hardly longer, and their survivors still make one group of batches.
        """
        if self._told_pool is not None:
            return self._told_pool
        return _MORE * POOL if self.transitions.whole and not opened else POOL

    def _whole(self) -> bool:
        """Returns whether launches are most of a step, so that survivors come in whole batches."""
        return self.stage > 1 and self.transitions.whole

    def _size(self) -> int:
        """Returns how many survivors a batch has in this stage."""
        usual = self.loaders if self.stage == 1 or self._whole() else self.batch_size
        return self.method.batches.get(self.stage, usual or 1)

    def move(self, stage: int, reason: str) -> None:
        """Enters a stage; what was decided on in another does not mix with what comes."""
        if self.stage == 1:
            self.learning.closing()
            # Unscored, so without what frozen layers put out: not to be mixed with what follows.
            self.holding.release(self.loaders or 1, everything=True)
        size = self._size()
        move = self.transitions.make(stage, reason, self.meter.drawn)
        self.tell({"event": "stage", **move})
        if stage == 1:
            self.holding.release(size, everything=True)
            self.second_look.opened(self.meter.drawn_tokens)
        else:
            self.second_look.closed()
        if (stage == 1) != self.holding.opened:
            self.ledger.watch.read()
            self.meter.moved(opened=stage == 1)
        self.holding.opened = stage == 1

    # ---- telling

    def _count(self, station: str, rows: Rows, sign: int = 1) -> None:
        self.ledger.count(station, sign * len(rows), sign * rows.tokens)
