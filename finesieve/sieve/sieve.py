"""The sieve: wraps the stream of batches and yields batches of survivors, all of one size.

    stream -> [forward gate] -> scoring pass -> [backward gate] -> held survivors -> batches

With both gates open (stage 1) the loader's batches pass through unchanged. Several ranks end a
pass together, when none has anything left: one that has nothing yields fillers until then.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from finesieve.batches.carry import inputs, is_filler, ride, rides
from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows, rows_from_state, rows_state
from finesieve.batches.waiting import Holding
from finesieve.costs.ledger import Ledger
from finesieve.costs.meter import Meter, Work
from finesieve.errors import ConfigError, StateError
from finesieve.gates.dice import roll_apart
from finesieve.gates.features import token_features
from finesieve.gates.forward import PredictorGate
from finesieve.gates.protocol import State
from finesieve.gates.simple import Open
from finesieve.methods.method import Method
from finesieve.methods.recipes import Recipe
from finesieve.methods.registry import method_of
from finesieve.scoring.batches import ScoringPass
from finesieve.scoring.head_start import HeadStart
from finesieve.scoring.heads import Head
from finesieve.scoring.scorers import Scorer, check_losses
from finesieve.sieve.beginning import Beginning
from finesieve.sieve.feedback import Learning
from finesieve.sieve.options import SieveOptions, clock_of, options_of, scorer_of
from finesieve.sieve.pool import Sifter
from finesieve.sieve.schedule import RateWatch, Schedule, StreamSchedule
from finesieve.sieve.state import check_same, described
from finesieve.sieve.together import Together
from finesieve.sieve.weights import weighted_mean
from finesieve.stages.policy import GateLimits
from finesieve.stages.transitions import Transitions

_END = object()
_TYPICAL_SHARE, _ENOUGH_STEPS = 0.2, 400
_VERSION = 10


class Sieve:
    """Filters a stream of batches: `for batch in sieve(loader): ...`, and
    `sieve.loss(losses, batch)` for the loss to call `backward()` on.

    Args:
        model: what is trained; its task is found from its class (a Hugging Face model's; for any
            other module one label an example, which the first examples prove or disprove). Called
            as `model(**batch without targets)` on dict batches, `model(*batch[:-1])` on tuples.
        method: a recipe (`Adaptive()` by default, `Budget(0.2)`, `Full()`, ...), from which the
            sieve builds gates of its own; the name of one; or a `Method` of your own gates.
        total: examples in all passes together (of this rank), for `progress`, a budget and stages
            set by share.
        head: the task, one of `finesieve.heads`, where the model's class does not tell it.
        scorer: the scoring pass itself, where no head fits (see `finesieve.scores`).
        head_start: examples of the stream's beginning that an untrained last layer is fitted to
            before anything is trained (see `finesieve.scoring.head_start`); by default 512, a
            twentieth of the stream at the most, with a method that scores, and 0 with any other.
            They are trained on afterwards like all others. 0: never.
        seed: of everything that draws random numbers: the gates, and the order of batches. Ranks
            above 0 draw otherwise by themselves, also with a given `Method`.
        options: all further settings (`SieveOptions`).

    Raises:
        ConfigError: for settings out of range or unknown.
        BatchError: for batches that cannot be taken apart.
        ScoreError: for losses that are not one finite value per example.
    """

    def __init__(
        self,
        model: Any = None,
        method: Recipe | Method | str | None = None,
        *,
        total: int | None = None,
        head: Head | None = None,
        scorer: Scorer | None = None,
        head_start: int | None = None,
        seed: int = 0,
        options: SieveOptions | None = None,
        **old: Any,
    ) -> None:
        given = options_of(options, old)
        scorer = scorer_of(model, head, scorer, given)
        for name, value, least in (("total", total, 1), ("head_start", head_start, 0)):
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigError(
                    f"{name} is {value!r}; expected a number of examples, {least} or more"
                )
        self.method = method_of(method, seed)
        if self.method.scores and scorer is None:
            raise ConfigError(
                f"method {self.method.name!r} scores examples: give the sieve the model, or a "
                "scorer"
            )
        # A gate of the user's own may want features too: given ones are always computed.
        wanted = given.features
        if wanted is None and isinstance(self.method.forward, PredictorGate):
            wanted = getattr(scorer, "features", token_features)()  # a plain function has none
        self._total, self._group = total, given.group
        self._pool_size = given.pool
        self._codec = Codec(given.pad_values, given.id_key, given.lengths)
        self._holding = Holding(self._codec, given.group, seed, self.method.stages.first == 1)
        self._batch_size = given.batch_size
        self._loaders: int | None = None  # examples in the loader's batches
        self._together = Together(given.agreement)
        self._roll_apart()
        self._listeners = list(given.listeners)
        self.ledger = Ledger(given.clock or clock_of(getattr(scorer, "model", model)))
        self.meter = Meter()
        self._scoring = ScoringPass(
            scorer,
            self._codec,
            self.ledger,
            self.meter,
            given.scoring_batch,
            given.scoring_overhead,
        )
        self._beginning = Beginning(
            self.method, head_start, total, self._codec, self._scoring, self.ledger, self._tell
        )
        self._sifter = Sifter(self.method, self._codec, self.ledger, self._scoring, wanted)
        self._learning = Learning(
            self.method, scorer, self._codec, wanted, given.read_ahead, self.ledger, self._tell
        )
        self.window = self._learning.window
        gates = self.method.opening, self.method.forward, self.method.backward
        limits = GateLimits(*(gate.limits() for gate in gates))
        self._transitions = Transitions(self.method.stages, self.window, total, limits)
        self.threshold: float | None = None  # the backward gate's, of the last pool
        self._pool: list[Rows] = []
        self.rates = RateWatch()  # a host that answers for the learning rate says so
        self._released = 0.0
        self._progress = 0.0
        self._batches_in_pass = 0
        self._last_pass = 0, 0  # batches trained on, and drawn
        self._filler: Rows | None = None  # once something was drawn
        self._ahead: list[Rows] = []  # taken by a host that was interrupted, not trained on
        self._resumed = False
        self._passes = 0
        self._detached = False
        self._fingerprint = self._identity()  # now: what gates learn is no part of it

    @classmethod
    def of_host(
        cls, scorer: Scorer | None, method: Recipe | Method | str | None, **settings: Any
    ) -> Sieve:
        """Returns a sieve for a host library, whose users give all settings one by one.

        Args:
            scorer: of the host's model.
            method: as in the constructor.
            settings: the constructor's, and fields of `SieveOptions`.

        Raises:
            SettingError: for a setting that is none.
        """
        own = {
            name: settings.pop(name) for name in ("total", "head_start", "seed") if name in settings
        }
        options = options_of(None, settings, warn=False)
        return cls(scorer=scorer, method=method, options=options, **own)

    # ---- the stream

    def __call__(self, batches: Iterable[Any], *, positioned: bool = False) -> Iterator[Any]:
        """One pass over the loader, filtered. No length: nobody knows it beforehand.

        After `load_state_dict` the first pass leaves out the batches that had been drawn from
        the interrupted one, so the loader must repeat its order; `positioned=True` if it starts
        where it was interrupted by itself.
        """
        if self._detached:
            yield from batches
            return
        new = self._passes == 0 and not self._resumed
        wanted = new and self._total is not None and self.method.filters
        with self.rates.watching(wanted and self.method.schedule_by == "stream"):
            yield from self._one_pass(batches, positioned)
        self._learning.check_told()
        if new:
            self.rates.check(*self._last_pass, self._progress)

    def _one_pass(self, batches: Iterable[Any], positioned: bool) -> Iterator[Any]:
        self._together.find()
        if self.meter.drawn == 0 and not self._resumed:
            self._roll_apart()  # where the process group was not there before
        iterator = iter(batches)
        with self.ledger.spending("data"):
            resumed, self._resumed = self._resumed, False
            skip = self._batches_in_pass if resumed else 0
            for done in range(0 if positioned else skip):
                batch = next(iterator, _END)
                if batch is _END:
                    raise StateError(
                        f"the interrupted pass had drawn {skip} batches, but the "
                        f"loader ends after {done}: it is another loader, or is positioned "
                        "already (then call sieve(loader, positioned=True))"
                    )
                self._codec.note(batch)
            self._batches_in_pass = skip
            if resumed:  # what waits goes out before anything is drawn: in the loader's own form
                first = list(islice(iterator, 1))
                for batch in first:
                    self._codec.note(batch)
                    self._place(batch)
                iterator = chain(first, iterator)
        if self._beginning.wanted and not resumed and self.meter.drawn == 0:
            iterator = self._beginning.read(iterator, self._together.mean)
        exhausted, made = False, 0
        while True:
            while not self._ahead and not self._holding.ready and not exhausted:
                with self.ledger.spending("data"):
                    batch = next(iterator, _END)
                if batch is _END:
                    exhausted = True
                    self._flush()
                else:
                    self._push(batch)
            if self._ahead:  # counted and agreed on when it was yielded first
                rows, opened = self._ahead.pop(0), self.stage == 1
            else:
                if exhausted and not self._holding.ready:
                    self._released += self._holding.take_idle()
                if not self._agree():
                    break
                rows, opened = self._next()
            real = bool(rows.weights.any())
            made += real
            with self.ledger.spending("decide"):
                out = self._codec.pack(rows)
            pace = self.meter.paces["open" if opened else "closed"]
            start = self.ledger.clock()
            try:
                yield out
            finally:
                taken = self.ledger.clock() - start
                self.ledger.seconds["train"] += taken
                if real:
                    pace.add(taken, int(rows.lengths.sum()))
        with self.ledger.spending("decide"):
            self._learning.absorb(self.stage)
        self._last_pass = made, self._batches_in_pass
        self._batches_in_pass = 0
        self._passes += 1

    def _place(self, batch: Any) -> None:
        """Put what waits where this batch of the loader's is: a host that resumes does not know."""
        self._holding.each(lambda rows: self._codec.place_like(rows, batch))
        for rows in (*self._pool, *self._ahead, *([self._filler] if self._filler else [])):
            self._codec.place_like(rows, batch)

    def _roll_apart(self) -> None:
        """Dice of this rank's own for the gates and for the order of batches."""
        gates = (self.method.opening, self.method.forward, self.method.backward)
        roll_apart(gates, self._together.rank)
        self._holding.for_rank(self._together.rank)

    def _push(self, batch: Any) -> None:
        """Draw one batch: decide on it once its pool is full, and hold what survives."""
        with self.ledger.spending("decide"):
            self._learning.absorb(self.stage, at_least=8)
            rows = self._codec.unpack(batch, self.meter.drawn)
            if len(rows) == 0:
                self._batches_in_pass += 1
                return
            if self._batch_size is None:
                self._batch_size = self.survivors(len(rows))
            if self._scoring.most is None:
                self._scoring.most = max(64, 2 * len(rows))
            if self._filler is None:
                self._filler = self._codec.filler(rows)
            self._count("drawn", rows)
            self.meter.draw(len(rows), int(rows.lengths.sum()))
            self._batches_in_pass += 1
            if self._loaders is None:
                self._loaders = len(rows)
        self._beginning.try_out(rows)
        if self.stage == 1 and isinstance(self.method.opening, Open):
            with self.ledger.spending("decide"):
                self._learning.expect(rows, self.stage, len(self._holding))
                self._holding.pass_through(rows)
                self._tell({"event": "open", "stage": 1, "ids": rows.ids})
        else:
            self._pool.append(rows)
            if sum(map(len, self._pool)) >= self._pool_size:
                self._sift()

    def survivors(self, loaders: int) -> int:
        """Survivors a batch, given the examples in the loader's batches."""
        if self._batch_size is not None:
            return self._batch_size
        if self._total is not None and self._total * _TYPICAL_SHARE / loaders >= _ENOUGH_STEPS:
            return loaders
        return max(1, round(loaders * self.method.batch_share))

    def _size(self) -> int:
        """Survivors a batch in this stage."""
        usual = self._loaders if self.stage == 1 else self._batch_size
        return self.method.batches.get(self.stage, usual or 1)

    def _flush(self) -> None:
        """Decide on what is drawn and release all survivors, the last batch maybe smaller."""
        if self._pool:
            self._sift()
        with self.ledger.spending("decide"):
            self._holding.release(self._size(), everything=True)

    def _next(self) -> tuple[Rows, bool]:
        """The next batch, and whether it passed open gates; a filler if only others have one."""
        if not self._holding.ready and self._filler is not None:
            return self._filler, self.stage == 1
        with self.ledger.spending("decide"):
            rows, opened = self._holding.next()
            self._count("yielded", rows)
            self._released += float(rows.spans.sum())
            self.meter.hand_out(int(rows.lengths.sum()), opened)
            return rows, opened

    def loss(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """The weighted mean of the losses, to call `backward()` on; a scalar.

        losses: float[n], one per example of the batch, with gradient. batch: as the sieve
        yielded it. sizes: as in `observe`, of use where they do not follow from the losses (class
        weights). In expectation the result is the mean loss over the pool drawn that the batch
        came from; a pool of which more survives gets more batches.

        Losses that are not finite are left out of the mean, counted and reported. If the model's
        own outputs were NaN or infinite there, the gradient is NaN all the same (0 * NaN): check
        the norm that `clip_grad_norm_` returns before stepping, as `finesieve train` does.
        """
        if self._detached and not rides(batch):
            return check_losses(losses, losses.numel(), "the training step").mean()
        ids, weights = ride(batch)
        losses = check_losses(losses, len(ids), "the training step")
        if is_filler(batch):
            return 0.0 * losses.nan_to_num(0.0, 0.0, 0.0).sum()
        self.observe(losses, batch, sizes)
        return weighted_mean(losses, weights)

    def reduce(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """`loss`, by its name of version 0.1."""
        warnings.warn(
            "Sieve.reduce goes with version 0.3: use Sieve.loss", DeprecationWarning, stacklevel=2
        )
        return self.loss(losses, batch, sizes)

    def observe(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> None:
        """Tell the sieve the training losses of a batch whose weights are all 1, where the host
        takes the mean itself; `loss` does it too.

        losses: float[n], one per example. sizes: float[n], of their gradients, if they are at
        hand (`heads.Head.sizes`); else they follow from the losses.
        """
        ids, _ = ride(batch)
        losses = check_losses(losses, len(ids), "the training step")
        if sizes is not None:
            sizes = check_losses(sizes, len(ids), "the training step").detach()
        self._learning.give(ids, losses.detach(), sizes)

    def filler(self) -> Any:
        """A batch of one or two examples of weight 0 and no id (-1), for a host that has to
        complete a step: `loss` makes 0 of its losses. `StateError` before anything was drawn."""
        if self._filler is None:
            raise StateError("nothing was drawn yet, so there is no example to make a filler of")
        return self._codec.pack(self._filler)

    def schedule(self, scheduler: Schedule, steps: int | None = None) -> StreamSchedule:
        """Returns the schedule, driven by the share of the stream consumed; call its `step()` after
        each optimizer step. So it is fully decayed when the stream ends, in however few steps.

        Args:
            scheduler: any of torch's or Hugging Face's, built for the steps of plain training.
            steps: how many those are; by default as many as plain training makes of `total`
                examples in batches of the loader's size, without accumulation.

        Raises:
            ConfigError: without `total`, or if the sieve was not given a batch yet at a step.
        """
        if self._total is None:
            raise ConfigError(
                "a schedule that follows the stream needs its length: give the sieve "
                "`total`, the number of examples in all passes together"
            )
        return StreamSchedule(
            scheduler, self._plain_steps if steps is None else steps, lambda: self.progress
        )

    def _plain_steps(self) -> int:
        if self._loaders is None or self._total is None:
            raise ConfigError(
                "the schedule was stepped before the sieve had a batch: step it in "
                "the loop, after the optimizer, or give sieve.schedule(..., steps=)"
            )
        return -(-self._total // self._loaders)

    def figures(self) -> dict[str, float]:
        """Returns stage, shares of the drawn examples trained on and scored, and savings as a share
        of plain training's cost, by what a token was measured to cost (`costs`)."""
        ledger = self.ledger
        drawn = max(1, ledger.examples.drawn - self.held)
        spent = self.work().spent(*self.costs, of=ledger.tokens.drawn)
        return {
            "sieve_stage": float(self.stage),
            "sieve_trained": round(ledger.examples.yielded / drawn, 4),
            "sieve_scored": round(ledger.examples.scored / max(1, ledger.examples.drawn), 4),
            "sieve_saved": round(1.0 - spent, 4),
        }

    def detach(self) -> None:
        """Filter no more: from the next pass on batches come as the loader has them, and `loss` is
        the plain mean. What waits in a pass under way still comes."""
        self._detached = True

    @property
    def stage(self) -> int:
        """1: both gates open; 2: the backward gate closed; 3: both closed."""
        return self._transitions.stage

    @property
    def moves(self) -> list[dict[str, Any]]:
        """Every transition: `stage`, `from_example` and `reason`; the start is the first."""
        return self._transitions.moves

    @property
    def position(self) -> int:
        """Batches drawn in the pass under way."""
        return self._batches_in_pass

    @property
    def progress(self) -> float:
        """Share of the stream consumed by the batches yielded, 0 to 1; the mean over ranks, so
        that a schedule driven by it gives every rank the same rate."""
        if self._total is None:
            raise ConfigError("progress needs the stream's length: give the sieve `total`")
        self.rates.known()
        return self._progress

    @property
    def cost_ratio(self) -> float:
        """Seconds to score a token over seconds to train on one of a survivor's: as measured, also
        where the method is told another."""
        return self.meter.ratio

    @property
    def costs(self) -> tuple[float, float]:
        """To score a token, and to train on one of a survivor's, over plain training's; measured,
        and followed in steps of a tenth."""
        return self.meter.score, self.meter.train

    @property
    def passes(self) -> int:
        """Passes over the data completed."""
        return self._passes

    @property
    def held(self) -> int:
        """Examples drawn but not yet dropped or yielded."""
        return sum(map(len, self._pool)) + len(self._holding)

    @property
    def undrawn(self) -> int:
        """Examples that were taken from the loader for the head start and not drawn yet."""
        return self._beginning.undrawn

    @property
    def head_start(self) -> HeadStart | None:
        """What came of the head start, once it was tried."""
        return self._beginning.found

    # ---- deciding

    def _sift(self) -> None:
        """Put the pool through the gates; hold what survives, learn from what was revealed."""
        ledger, scores = self.ledger, self.method.scores and self.stage > 1
        with ledger.spending("decide"):
            if self.stage > 1:
                self.meter.follow()
            rows = self._codec.concat(self._pool)
            self._pool = []
        shares = self._transitions.shares
        if self.stage == 1:
            found = self._sifter.opened(rows, shares)
        else:
            found = self._sifter.closed(rows, self.stage, self.cost_ratio, shares)
        with ledger.spending("decide"):
            self._learning.bad(len(found.bad))
            if self.stage == 3:
                self._count("decided", rows)
            if self.stage > 1:
                self.threshold = found.threshold
            self._count("dropped", rows)
            self._count("dropped", found.survivors, -1)
            if self._listeners:
                self._tell(found.event(scores))
            if scores:
                self._learning.scored(found)
            else:
                self._learning.expect(
                    found.survivors, self.stage, len(self._holding), found.chances
                )
            self._holding.add(found.survivors, len(rows), self._size())

    # ---- stages

    def _agree(self) -> bool:
        """Once per batch: has any rank one? And with the averages, is it time to move?"""
        with self.ledger.spending("decide"):
            evidence = self._transitions.evidence(
                self.meter.drawn, self._passes, self.costs, self.work
            )
            # The batch that comes next counts as consumed: the rate is for the step after it.
            released = self._released + self._holding.next_span()
            settled = self._together.settle(
                ready=self._holding.ready,
                empty=self._filler is None,
                consumed=min(1.0, released / self._total) if self._total else 0.0,
                evidence=evidence,
                gates=(self.method.forward, self.method.backward),
            )
            self._progress = settled.consumed
            move = self._transitions.due(settled.evidence)
            if move is not None:
                self._move(*move)
            return settled.ready

    def work(self) -> Work:
        """Return the tokens trained on and scored so far; those that wait count as trained on."""
        return self.meter.work(
            self._total, self._holding.tokens(opened=True), self._holding.tokens(opened=False)
        )

    def _move(self, stage: int, reason: str) -> None:
        if self.stage == 1:
            self._learning.closing()
            # Unscored, so without what frozen layers put out: not to be mixed with what follows.
            self._holding.release(self._loaders or 1, everything=True)
        move = self._transitions.make(stage, reason, self.meter.drawn)
        self._tell({"event": "stage", **move})
        if stage == 1:
            self._holding.release(self._batch_size or 1, everything=True)
        self._holding.opened = stage == 1

    # ---- telling

    def _count(self, station: str, rows: Rows, sign: int = 1) -> None:
        self.ledger.count(station, sign * len(rows), sign * int(rows.lengths.sum()))

    def _tell(self, event: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener(event)

    # ---- state

    def _identity(self) -> dict[str, Any]:
        m = self.method
        return {
            "version": _VERSION,
            "method": m.name,
            "forward": described(m.forward),
            "backward": described(m.backward),
            "opening": described(m.opening),
            "stages": described(m.stages),
            "pool": self._pool_size,
            "group": self._group,
            "total": self._total,
        }

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        return {
            "forward": self.method.forward,
            "backward": self.method.backward,
            "opening": self.method.opening,
            "codec": self._codec,
            "ledger": self.ledger,
            "meter": self.meter,
            "learning": self._learning,
            "transitions": self._transitions,
        }

    def state_dict(self, ahead: Sequence[Any] = ()) -> State:
        """Everything, as tensors, numbers, strings, lists and dicts.

        ahead: batches that a host which reads ahead has taken but not trained on; a sieve that
        takes up the state yields them first. Without them they are lost.

        Saved between two batches it resumes to the bit.
        """
        return {
            "fingerprint": dict(self._fingerprint),
            "batch_size": self._batch_size,
            "loaders": self._loaders,
            "scoring_batch": self._scoring.most,
            "head_start": None if self.head_start is None else self.head_start.as_dict(),
            **{name: part.state_dict() for name, part in self._parts().items()},
            "pool": [rows_state(r) for r in self._pool],
            "holding": self._holding.state_dict(),
            "ahead": [rows_state(r) for r in (*map(self._taken, ahead), *self._ahead)],
            "filler": None if self._filler is None else rows_state(self._filler),
            "counters": {
                "released": self._released,
                "progress": self._progress,
                "batches_in_pass": self._batches_in_pass,
                "passes": self._passes,
                "threshold": self.threshold,
            },
        }

    def _taken(self, batch: Any) -> Rows:
        """The rows of a batch that was yielded."""
        rows = self._codec.unpack(inputs(batch), 0)
        rows.ids, rows.weights = (x.cpu().numpy().copy() for x in ride(batch))
        return rows

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Take up a saved state; `StateError` if it is of another method, version or setting.

        device: where the examples that wait are put until the loader's first batch is there, whose
            own place is theirs from then on.
        """
        check_same(state.get("fingerprint", {}), self._fingerprint)
        if self._batch_size not in (None, state["batch_size"]):
            raise StateError(
                f"the saved state has batch_size={state['batch_size']}, this sieve "
                f"{self._batch_size}"
            )
        if state["batch_size"] is not None:
            self._batch_size = state["batch_size"]
        self._scoring.most, self._loaders = state["scoring_batch"], state["loaders"]
        found = state["head_start"]
        self._beginning.was_made(None if found is None else HeadStart(**found))
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._pool = [rows_from_state(s, device) for s in state["pool"]]
        self._holding.load_state_dict(state["holding"], device)
        self._ahead = [rows_from_state(s, device) for s in state["ahead"]]
        filler = state["filler"]
        self._filler = None if filler is None else rows_from_state(filler, device)
        counters = state["counters"]
        self._released = counters["released"]
        self._batches_in_pass, self._passes = counters["batches_in_pass"], counters["passes"]
        self._progress = counters["progress"]
        self.threshold = counters["threshold"]
        self._resumed = True
