"""The scoring pass over a pool: batches of like length, losses checked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows
from finesieve.costs.ledger import Ledger
from finesieve.costs.meter import Meter
from finesieve.costs.pace import Pace
from finesieve.costs.watch import Step
from finesieve.errors import ConfigError, ScoreError
from finesieve.gates.protocol import FloatArray, IntArray, State
from finesieve.scoring.cuts import cut_alike, cut_by_length
from finesieve.scoring.head_start import unfit
from finesieve.scoring.last_layer import LastLayer, joined
from finesieve.scoring.mode import is_sharded
from finesieve.scoring.precision import Precision
from finesieve.scoring.protocol import ROOM, Launched, Scorer, Scores, launcher

_Found = TypeVar("_Found")
_OVERHEAD = 64.0  # tokens that a forward's launch is worth on a CPU
_MOST_OVERHEAD = 1e9  # one forward, whatever the padding
_MOST_INPUTS = 2**26  # numbers that a head start may hold: 256 MB


class Scored(NamedTuple):
    """What scoring m rows gave.

    Args:
        loss, size: float32[m].
        prefix: float[m, length, width], what frozen layers put out, 0 where the text is over; None
            where the scorer gives nothing of the kind.
    """

    loss: FloatArray
    size: FloatArray
    prefix: Tensor | None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores the random states of the process and of its GPUs on leaving."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = torch.cuda.get_rng_state_all() if on_gpu else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


class ScoringPass:
    """Scores rows in as few forwards as memory allows, and keeps the books of it.

    On an accelerator the limit is `budget` alone; on a CPU, where large forwards gain nothing,
    examples are limited, too. A forward that runs out of memory is made again in halves, and half
    of what it tried is the limit from then on.

    Args:
        most: examples a batch at the most.
        budget: padded tokens a batch at the most: `room` times those of the largest training batch
            seen.
        overhead: see `cut_by_length`.
        precision: "auto" or "training", see `Precision`.
    """

    def __init__(
        self,
        scorer: Scorer | None,
        codec: Codec,
        ledger: Ledger,
        meter: Meter,
        most: int | None,
        overhead: float | None,
        precision: str = "auto",
    ) -> None:
        self._scorer, self._codec, self._ledger, self._meter = scorer, codec, ledger, meter
        self._launcher = None if scorer is None else launcher(scorer)
        self._precision = Precision(precision, getattr(scorer, "model", None))
        self.most, self._told = most, most is not None
        self._told_overhead = overhead is not None
        self._overhead = _OVERHEAD if overhead is None else overhead
        self._largest = 0  # padded tokens in the largest training batch
        self._room = getattr(scorer, "room", ROOM)
        self._failed = float("inf")  # padded tokens that memory was not enough for

    def check_alone(self) -> None:
        """Raises `ConfigError` where one of several ranks cannot run the model by itself: ranks
        score when they come to it, and others would be waited for."""
        model = getattr(self._scorer, "model", None)
        if isinstance(model, nn.Module) and is_sharded(model):
            raise ConfigError(
                "the model is sharded over the ranks (FSDP, tensor parallelism, DeepSpeed's stage "
                "3), so one rank alone cannot score its examples, and would wait for the others: "
                "use DistributedDataParallel, or a method that does not score (RandomSubset) with "
                "head_start=0"
            )

    def see(self, rows: Rows) -> None:
        """Learns from a batch of the loader's what training needs."""
        if self._scorer is None or len(rows) == 0:
            return
        if self.most is None:
            self.most = max(64, 2 * len(rows))
        self._largest = max(self._largest, len(rows) * rows.longest)

    @property
    def budget(self) -> float:
        """Padded tokens a forward may have at the most."""
        return min(self._room * self._largest, self._failed / 2)

    def __call__(self, rows: Rows, chosen: IntArray) -> Scored:
        """Score the chosen rows, int64[m].

        Raises:
            ScoreError: if the scorer gives other than one loss and one size per example.
        """
        with self._ledger.spending("score"):
            out = self._score(rows, chosen)
        self._count(rows.lengths[chosen])
        return out

    def _count(self, lengths: npt.NDArray[np.int64]) -> None:
        tokens = int(lengths.sum())
        self._ledger.count("scored", len(lengths), tokens)
        self._meter.scored += tokens

    def _lap(self, lengths: npt.NDArray[np.int64]) -> None:
        """Books and times the forward over examples of these lengths, int[n], ascending, that ends
        here."""
        # Scored in two precisions it took longer than usual.
        pace = Pace() if self._precision.compared else self._meter.paces["score"]
        step = Step.of(pace, len(lengths), int(lengths.sum()), int(lengths[-1]))
        self._ledger.watch.turn("score", step)

    def _cuts(self, lengths: npt.NDArray[np.int64]) -> list[slice]:
        assert self.most is not None
        if self._codec.buckets:
            return cut_alike(lengths, self.most, self._codec.buckets)
        model = getattr(self._scorer, "model", None)
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        free = not self._told and parameter is not None and parameter.device.type != "cpu"
        most = len(lengths) if free else self.most
        return cut_by_length(lengths, most, self._overhead, self.budget)

    def _each(
        self, rows: Rows, chosen: IntArray, work: Callable[[Any, int], _Found]
    ) -> Iterator[tuple[IntArray, int, _Found]]:
        """Puts the chosen rows in batches for the model.

        Yields for each the places of its examples among the chosen, how many examples it has (more
        than places where it is filled up to a fixed size), and what `work` made of it and of their
        number.
        """
        codec = self._codec
        lengths = rows.lengths[chosen]
        left, chooser = np.argsort(lengths, kind="stable"), codec.chooser(rows)
        while len(left):
            for cut in self._cuts(lengths[left]):
                index = given = left[cut]
                if codec.buckets:  # of one size, for compiled models: the last one is repeated
                    assert self.most is not None
                    given = np.pad(index, (0, self.most - len(index)), mode="edge")
                try:
                    columns = chooser.columns(chosen[given], int(lengths[index[-1]]))
                    found = work(codec.for_model(columns), len(given))
                except torch.OutOfMemoryError:
                    if len(given) == 1:
                        raise ScoreError(
                            f"scoring one example of {int(lengths[index[-1]])} tokens ran out of "
                            "memory: free some (what else is on the device?), or cut texts shorter"
                        ) from None
                    failed = len(given)
                else:
                    failed = 0
                    yield index, len(given), found
                if failed:  # here the error, and what its frames held, is gone
                    self._shrink(failed, int(lengths[index[-1]]))
                    left = left[cut.start :]
                    break
            else:
                return

    def _shrink(self, examples: int, longest: int) -> None:
        """Remembers that memory was not enough for so many examples of this length."""
        self._failed = min(self._failed, float(examples * longest))
        if self._codec.buckets:
            self.most = examples // 2
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()

    def last_layer(self, rows: Rows) -> LastLayer | None:
        """Returns what the last linear layer is given for these rows, in the order of their
        lengths.

        That is None where the scorer knows of no such layer, and only the first batch's where the
        layer may not be fitted. Fewer rows than given are run where their inputs would take more
        than 256 MB.
        """
        ask = getattr(self._scorer, "last_layer", None)  # a plain function has none
        parts: list[LastLayer] = []
        if ask is None or len(rows) == 0:
            return None
        numbers = 0

        def asked(batch: Any, count: int) -> LastLayer | None:
            with self._ledger.spending("score"):
                found: LastLayer | None = ask(batch)
                return found

        for index, size, part in self._each(rows, np.arange(len(rows)), asked):
            if part is None:
                return None
            self._count(rows.lengths[index])
            parts.append(part if size == len(index) else part.take(torch.arange(len(index))))
            numbers += part.inputs.numel()
            if unfit(part) or part.layer is not parts[0].layer or numbers > _MOST_INPUTS:
                break
        same = all(part.layer is parts[0].layer for part in parts)
        return joined(parts) if same else None

    def measured(self, overhead: float) -> None:
        """Lets the cuts go by what a forward's launch was measured to be worth, in tokens, unless
        the user said it."""
        if not self._told_overhead:
            self._overhead = min(overhead, _MOST_OVERHEAD)

    def look(self, rows: Rows, chosen: IntArray) -> None:
        """Times the scoring of the chosen rows, and throws the scores away. They are scored twice,
        and timed the second time. Random states are restored."""
        with _undisturbed():
            for timed in (False, True):
                with self._ledger.spending("score"):
                    self._score(rows, chosen, timed)
                self._count(rows.lengths[chosen])

    def try_out(self, rows: Rows) -> None:
        """Scores two of the rows and throws the scores away, so that a scorer that does not fit
        the batches is found out before anything is trained. No books are kept of it, and the
        random states of the process and of its GPUs are restored.

        Raises whatever scoring a pool would raise.
        """
        some = np.arange(min(2, len(rows)))
        with _undisturbed():
            found = [(n, answer) for _, n, answer in self._each(rows, some, self._checked)]
            self._read([answer for _, answer in found], [n for n, _ in found])

    def _launched(self, batch: Any, count: int) -> Scores | Launched:
        """Returns the scorer's answer for a batch of `count` examples, in the precision of the
        scoring pass."""
        return self._precision.launched(lambda given: self._checked(given, count), batch)

    def _checked(self, batch: Any, count: int) -> Scores | Launched:
        """Returns the scorer's answer for a batch of `count` examples.

        Raises:
            ScoreError: for losses or sizes that are not one for each.
        """
        assert self._launcher is not None
        found = self._launcher(batch)
        size = found.loss if found.size is None else found.size
        if found.loss.shape != (count,) or size.shape != (count,):
            raise ScoreError(
                f"the scorer gave {tuple(found.loss.shape)} losses and {tuple(size.shape)} "
                f"sizes for {count} examples; expected one of each per example"
            )
        return found

    def _score(self, rows: Rows, chosen: IntArray, timed: bool = True) -> Scored:
        codec, lengths = self._codec, rows.lengths[chosen]
        prefix: Tensor | None = None
        places: list[IntArray] = []
        answers: list[Scores | Launched] = []
        note = getattr(self._scorer, "note", None)  # a plain function has none
        for index, _, found in self._each(rows, chosen, self._launched):
            if note is not None:
                note(rows.ids[chosen[index]])
            places.append(index)
            if found.prefix is not None:
                prefix = codec.place(rows, prefix, len(chosen), index, found.prefix)
                if isinstance(found, Launched):  # its memory is needed for the next one
                    found = found._replace(prefix=None)
                else:
                    found = replace(found, prefix=None)
            answers.append(found)
            if timed:
                self._lap(lengths[index])
        order = np.concatenate([np.empty(0, np.int64), *places])
        loss, size = np.empty(len(order), np.float32), np.empty(len(order), np.float32)
        loss[order], size[order] = self._read(answers, [len(index) for index in places])
        return Scored(loss, size, prefix)

    def _read(
        self, answers: Sequence[Scores | Launched], counts: Sequence[int]
    ) -> tuple[FloatArray, FloatArray]:
        """Returns the losses and sizes of the first so many examples of each answer, one after
        another, float32. The device is waited for once."""
        assert self._scorer is not None
        self._room = getattr(self._scorer, "room", ROOM)  # it has seen outputs now
        given = list(zip(answers, counts, strict=True))
        launched = [(x, n) for x, n in given if isinstance(x, Launched)]
        if not launched:
            done = [(x, n) for x, n in given if isinstance(x, Scores)]
            none = np.empty(0, np.float32)
            return (
                np.concatenate([none, *(x.loss[:n] for x, n in done)]),
                np.concatenate([none, *(x.size[:n] for x, n in done)]),
            )
        losses = torch.cat([x.loss[:n].float() for x, n in launched])
        sizes = [x.size[:n].float() for x, n in launched if x.size is not None]
        if sizes:
            loss, size = torch.stack((losses, torch.cat(sizes))).cpu().numpy()
            return loss, size
        loss = losses.cpu().numpy()
        return loss, self._scorer.size_of_loss(loss)

    # ---- state

    def state_dict(self) -> State:
        """Returns what forwards are cut by, the sizes of batches and where memory was not enough,
        and their precision."""
        return {
            "most": self.most,
            "largest": self._largest,
            "room": self._room,
            "failed": self._failed,
            "precision": self._precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.most, self._largest = state["most"], state["largest"]
        self._room, self._failed = state["room"], state["failed"]
        if "precision" in state:  # states from before there was one
            self._precision.load_state_dict(state["precision"])
