"""The sieve: wraps the stream of batches and yields batches of survivors, all of one size.

    stream -> [forward gate] -> scoring pass -> [backward gate] -> held survivors -> batches

Here is what users call. What is drawn and yielded when is in `loop`, the way of the examples in
`flow`, what the gates decide in `pool`, what is learned in `feedback`, a saved state in `state`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from finesieve.batches.carry import is_filler, ride, rides
from finesieve.costs.ledger import KINDS
from finesieve.costs.meter import Work
from finesieve.costs.timer import ProgramTimer, devices_of
from finesieve.costs.watch import Watch
from finesieve.errors import ConfigError, StateError, check_examples, check_seed
from finesieve.gates.protocol import State
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe
from finesieve.methods.registry import method_of
from finesieve.scoring.head_start import HeadStart
from finesieve.scoring.heads import Head
from finesieve.scoring.protocol import Scorer, check_losses
from finesieve.sieve.beginning import Beginning
from finesieve.sieve.flow import Flow
from finesieve.sieve.loop import Loop
from finesieve.sieve.options import SET, SieveOptions, options_of, scorer_of
from finesieve.sieve.record import Record
from finesieve.sieve.schedule import RateWatch, Schedule, StreamSchedule
from finesieve.sieve.state import check_same, identity, take_up, written
from finesieve.sieve.table import Table
from finesieve.sieve.together import Together
from finesieve.sieve.weights import weighted_mean


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
        total = check_examples("total", total)
        head_start = check_examples("head_start", head_start, 0)
        seed = check_seed(seed)
        self.method = method_of(method, seed)
        if self.method.scores and scorer is None:
            raise ConfigError(
                f"method {self.method.name!r} scores examples: give the sieve the model, or a "
                "scorer"
            )
        self._total = total
        timer = ProgramTimer(given.clock) if given.clock else None
        devices = partial(devices_of, getattr(scorer, "model", model))
        watch = Watch(KINDS, timer, devices)
        self._flow = flow = Flow(self.method, scorer, given, total, seed, watch)
        self.ledger, self.meter, self.window = flow.ledger, flow.meter, flow.learning.window
        self._together = Together(given.agreement, devices)
        flow.for_rank(self._together.rank)
        self._beginning = Beginning(
            self.method, head_start, total, flow.codec, flow.scoring, flow.ledger, flow.tell
        )
        self._loop = Loop(flow, self._beginning, self._together, total)
        self.rates = RateWatch()  # a host that answers for the learning rate says so
        self._save_texts = given.save_texts
        self._detached = False
        self._plain = False  # whether a pass has begun that is not filtered
        # Now: what gates learn is no part of it.
        self._fingerprint = identity(self.method, given, total)

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
        own = {name: settings.pop(name) for name in SET if name in settings}
        options = options_of(None, settings, warn=False)
        return cls(scorer=scorer, method=method, options=options, **own)

    def __call__(self, batches: Iterable[Any], *, positioned: bool = False) -> Iterator[Any]:
        """Yields one pass over the loader, filtered. It has no length: nobody knows it beforehand.

        After `load_state_dict` the first pass leaves out the batches that had been drawn from the
        interrupted one, so the loader must repeat its order.

        Args:
            batches: a loader of dicts, mappings, tuples, lists or single tensors.
            positioned: whether the loader starts where it was interrupted by itself.

        Raises:
            BatchError: for batches that cannot be taken apart or put together.
            StateError: after `load_state_dict`, if the loader's order is another.
            ScoreError: for losses that are not finite, if they are more than an accident.
        """
        if self._detached and (self._plain or not (self._loop.resumed and self.position)):
            self._plain = True
            yield from self._loop.plain_pass(batches, positioned)
            return
        new = self.passes == 0 and not self._loop.resumed
        wanted = new and self._total is not None and self.method.filters
        with self.rates.watching(wanted and self.method.schedule_by == "stream"):
            yield from self._loop.one_pass(batches, positioned)
        self._flow.learning.check_told()
        if new:
            self.rates.check(*self._loop.last, self._flow.counters.progress)

    def loss(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """Return the weighted mean of the losses, a scalar to call `backward()` on.

        In expectation it is the mean loss over the pool drawn that the batch came from; a pool of
        which more survives gets more batches.

        Losses that are not finite add nothing to it; they are counted and reported. If the model's
        own outputs were NaN or infinite there, the gradient is NaN all the same (0 * NaN): check
        the norm that `clip_grad_norm_` returns before stepping, as `finesieve train` does.

        Args:
            losses: float[n], one per example of the batch, with gradient.
            batch: as the sieve yielded it.
            sizes: as in `observe`, of use where they do not follow from the losses (class weights).

        Raises:
            ScoreError: if these are not n losses.
        """
        if self._detached and not rides(batch):
            return check_losses(losses, losses.numel(), "the training step").mean()
        ids, weights = ride(batch)
        losses = check_losses(losses, len(ids), "the training step")
        # A filler's losses on a device are told as others are, and left out for their ids of -1.
        if losses.shape[0] <= 2 and weights.is_cpu and is_filler(batch):
            return 0.0 * losses.nan_to_num(0.0, 0.0, 0.0).sum()
        self._give(ids, losses, sizes)
        return weighted_mean(losses, weights)

    def reduce(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """Returns what `loss` does: its name of version 0.1."""
        warnings.warn(
            "Sieve.reduce goes with version 0.3: use Sieve.loss", DeprecationWarning, stacklevel=2
        )
        return self.loss(losses, batch, sizes)

    def observe(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> None:
        """Takes in the training losses of a batch whose weights are all 1, where the host takes the
        mean itself; `loss` does it too.

        Args:
            losses: float[n], one per example.
            batch: as the sieve yielded it.
            sizes: float[n], of their gradients, if they are at hand (`heads.Head.sizes`); else they
                follow from the losses.

        Raises:
            ScoreError: if these are not n losses.
        """
        if self._detached and not rides(batch):
            return
        ids, _ = ride(batch)
        self._give(ids, check_losses(losses, len(ids), "the training step"), sizes)

    def _give(self, ids: Tensor, losses: Tensor, sizes: Tensor | None) -> None:
        if sizes is not None:
            sizes = check_losses(sizes, len(ids), "the training step").detach()
        self._flow.learning.give(ids, losses.detach(), sizes)

    def finish(self) -> None:
        """Takes in the losses that came back last, for a host that leaves a pass before its end."""
        self._flow.learning.absorb(self.stage)

    def filler(self) -> Any:
        """Returns a batch of one or two examples of weight 0 and no id (-1), for a host that has to
        complete a step: `loss` makes 0 of its losses.

        Raises:
            StateError: before anything was drawn.
        """
        if self._flow.filler is None:
            raise StateError("nothing was drawn yet, so there is no example to make a filler of")
        return self._flow.codec.pack(self._flow.filler)

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
        if self._flow.loaders is None or self._total is None:
            raise ConfigError(
                "the schedule was stepped before the sieve had a batch: step it in "
                "the loop, after the optimizer, or give sieve.schedule(..., steps=)"
            )
        return -(-self._total // self._flow.loaders)

    def figures(self) -> dict[str, float]:
        """Returns what hosts log: the stage, the shares of the drawn examples that were trained on
        and scored, and `sieve_saved`, the share of plain training's cost saved so far.

        That is `1 - (o + t c + s f) / d` with the tokens drawn `d`, trained on while the gates were
        open `o` and closed `c`, and scored `f`; `t` and `s` are what a token costs to train on with
        closed gates and to score, over training on one with open gates, as measured in this run in
        steps of a tenth (`costs`). Deciding, a percent or two, is left out.
        """
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
        """Stops filtering: from the next pass on batches come as the loader has them, and `loss` is
        their plain mean. What waits in a pass under way still comes, with its weights. Examples
        are counted on, so `progress` and the schedules that follow it go on to their end. On
        several ranks each has to call it, in the same pass. A state that is saved afterwards
        resumes without filtering, too."""
        self._detached = True

    @property
    def detached(self) -> bool:
        """Whether `detach` was called; a pass that was under way then is filtered to its end."""
        return self._detached

    @property
    def stage(self) -> int:
        """1: both gates open; 2: the backward gate closed; 3: both closed."""
        return self._flow.stage

    @property
    def moves(self) -> list[dict[str, Any]]:
        """Every transition: `stage`, `from_example` and `reason`; the start is the first."""
        return self._flow.transitions.moves

    @property
    def position(self) -> int:
        """Batches drawn in the pass under way."""
        return self._flow.counters.batches_in_pass

    @property
    def progress(self) -> float:
        """Share of the stream consumed by the batches yielded, 0 to 1; the mean over ranks, so
        that a schedule driven by it gives every rank the same rate."""
        if self._total is None:
            raise ConfigError("progress needs the stream's length: give the sieve `total`")
        self.rates.known()
        return self._flow.counters.progress

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
        return self._flow.counters.passes

    @property
    def held(self) -> int:
        """The number of examples that were drawn and wait for a decision or for their batch."""
        return self._flow.held

    @property
    def undrawn(self) -> int:
        """Examples that were taken from the loader for the head start and not drawn yet."""
        return self._beginning.undrawn

    @property
    def head_start(self) -> HeadStart | None:
        """What came of the head start, once it was tried."""
        return self._beginning.found

    @property
    def insights(self) -> Table:
        """What this run showed of each example (`Record.table`), and of rows of tokens also
        `Answers.columns`; ids are those of `id_key`, or places in the stream. Ask for
        `to_pandas()`, `to_polars()` or `to_arrow()` of it."""
        table, answers = self.record.table(), self._flow.answers
        return table if answers is None else Table({**table, **answers.columns(table["id"])})

    @property
    def record(self) -> Record:
        """Every loss and gradient norm over time. It is not part of the saved state."""
        return self._flow.record

    @property
    def threshold(self) -> float | None:
        """The backward gate's, of the last pool; None before any, or where it has none."""
        return self._flow.counters.threshold

    def survivors(self, loaders: int) -> int:
        """Returns how many survivors a batch has, given the examples in the loader's batches."""
        return self._flow.survivors(loaders)

    def work(self) -> Work:
        """Return the tokens trained on and scored so far; those that wait count as trained on."""
        return self._flow.work()

    def may_exceed_total(self) -> None:
        """Takes more examples than `total` for no mistake.

        It is for a host that makes as many steps as it is told, over as much data as that takes:
        then `total` says where stages begin.
        """
        self._loop.may_exceed_total()

    # ---- state

    def check_place(self, batch: Any) -> None:
        """Compares a batch with the one drawn last before the run was interrupted; for a host that
        finds its place in the data itself, before it calls the sieve with `positioned=True`.

        Args:
            batch: the loader's, number `position` of the pass that was interrupted.

        Raises:
            StateError: if most of its examples are others.
        """
        self._loop.check_place(batch)

    def state_dict(self, ahead: Sequence[Any] = ()) -> State:
        """Returns the whole state, as tensors, numbers, strings, lists and dicts.

        Saved between two batches it resumes to the bit. It holds the examples that wait, token ids
        and all: with `SieveOptions(save_texts=False)` it does not, and a run that takes it up never
        trains on them.

        Args:
            ahead: batches that a host which reads ahead has taken but not trained on; a sieve that
                takes up the state yields them first. Without them they are lost.
        """
        if self._plain:
            kept = [batch for batch in ahead if self._save_texts or rides(batch)]
            ahead = [batch if rides(batch) else self._loop.riding(batch) for batch in kept]
        run = written(self._flow, self._beginning, self._loop, ahead, self._save_texts)
        detached = {"asked": self._detached, "plain": self._plain}
        return {"fingerprint": dict(self._fingerprint), "detached": detached, **run}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore what `state_dict` saved, so that the run goes on where it was.

        Args:
            state: from a sieve of the same method and settings.
            device: where to put the saved examples. Once the loader's first batch comes, they move
                to the device of that batch.

        Raises:
            StateError: if the state is of another method, version or setting.
        """
        check_same(state.get("fingerprint", {}), self._fingerprint)
        take_up(state, self._flow, self._beginning, self._loop, device)
        detached = state.get("detached", {"asked": False, "plain": False})
        self._detached = self._detached or detached["asked"]
        self._plain = detached["plain"]
