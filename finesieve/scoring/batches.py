"""The scoring pass over a pool: batches of like length, losses checked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows
from finesieve.costs.ledger import Ledger
from finesieve.costs.meter import Meter
from finesieve.costs.watch import Step
from finesieve.errors import ScoreError
from finesieve.gates.protocol import FloatArray, IntArray
from finesieve.scoring.head_start import unfit
from finesieve.scoring.last_layer import LastLayer, joined
from finesieve.scoring.scorers import Scorer, Scores

_ENDS, _MOST_COSTS = 64, 2**20  # of `cut_by_length`: worked on at once, and what that may take
_OVERHEAD = 64.0  # tokens that a forward's launch is worth on a CPU
_MOST_OVERHEAD = 1e9  # one forward, whatever the padding
_MOST_INPUTS = 2**26  # numbers that a head start may hold: 256 MB


def cut_by_length(lengths: npt.ArrayLike, most: int, overhead: float) -> list[slice]:
    """Cut examples sorted by length into the cheapest batches.

    A batch costs `overhead` plus its size times its longest example, in tokens; the sum is the
    least possible. least[end] = min over first of least[first] + (end - first) * longest[end - 1]
    + overhead is what the first `end` examples cost, with the last batch beginning at `first`. Many
    ends are worked on at once, again and again until none gets cheaper: as many times as they are
    batches apart, which are few.

    lengths: int[n], ascending. most: examples a batch at the most.
    """
    longest = np.asarray(lengths, dtype=np.float64)
    n = len(longest)
    most = min(most, n)
    # Of `end`, the batch that begins at `end - most + j` is in row j; nothing begins before 0.
    least, begin = np.full(most + n + 1, np.inf), np.zeros(n + 1, dtype=np.int64)
    least[most] = 0.0
    size = np.arange(most, 0, -1, dtype=np.float64)[:, None]
    wide = min(_ENDS, max(1, _MOST_COSTS // max(1, most)))
    for low in range(1, n + 1, wide):
        high = min(low + wide, n + 1)
        own = size * longest[low - 1 : high - 1]
        before = as_strided(least[low:], own.shape, least.strides * 2, writeable=False)
        here = least[low + most : high + most]
        while True:
            costs = before + own
            found = costs.min(axis=0) + overhead
            if (found == here).all():
                break
            here[:] = found
        begin[low:high] = np.arange(low, high) - most + costs.argmin(axis=0)
    cuts, end = [], n
    while end > 0:
        cuts.append(slice(int(begin[end]), end))
        end = int(begin[end])
    return cuts[::-1]


def cut_alike(lengths: npt.NDArray[np.int64], most: int, buckets: list[int]) -> list[slice]:
    """Cut examples sorted by length into batches that are padded to the same of `buckets`.

    lengths: int[n], ascending. most: examples a batch at the most.
    """
    ends = [int(e) for e in np.searchsorted(lengths, buckets, side="right")]
    cuts, begin = [], 0
    for end in [*ends[:-1], len(lengths)]:
        cuts += [slice(i, min(i + most, end)) for i in range(begin, end, most)]
        begin = max(begin, end)
    return cuts


class Scored(NamedTuple):
    """What scoring m rows gave.

    loss, size: float32[m]. prefix: float[m, length, width], what frozen layers put out, 0 where the
    text is over; None where the scorer gives nothing of the kind.
    """

    loss: FloatArray
    size: FloatArray
    prefix: Tensor | None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores the random states of the process and of its GPUs."""
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
    """Scores rows in batches of like length, and keeps the books of it.

    most: examples a batch at the most; the sieve sets it when it has seen the loader's batches.
    overhead: see `cut_by_length`.
    """

    def __init__(
        self,
        scorer: Scorer | None,
        codec: Codec,
        ledger: Ledger,
        meter: Meter,
        most: int | None,
        overhead: float | None,
    ) -> None:
        self._scorer, self._codec, self._ledger, self._meter = scorer, codec, ledger, meter
        self.most = most
        self._told_overhead = overhead is not None
        self._overhead = _OVERHEAD if overhead is None else overhead

    def __call__(self, rows: Rows, chosen: IntArray) -> Scored:
        """Score the chosen rows, int64[m].

        Raises `ScoreError` if the scorer gives other than one loss and one size per example.
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
        """Time the forward over examples of these lengths, which ends here."""
        self._ledger.watch.turn("score", Step.of(self._meter.paces["score"], lengths))

    def _cuts(self, lengths: npt.NDArray[np.int64], most: int) -> list[slice]:
        if self._codec.buckets:
            return cut_alike(lengths, most, self._codec.buckets)
        return cut_by_length(lengths, most, self._overhead)

    def _batches(self, rows: Rows, chosen: IntArray) -> Iterator[tuple[IntArray, int, Any]]:
        """The chosen rows in batches for the model: their places among the chosen, how many
        examples the batch has (more than places where it is filled up to a fixed size), and the
        batch."""
        codec = self._codec
        assert self.most is not None
        lengths = rows.lengths[chosen]
        order, take = np.argsort(lengths, kind="stable"), codec.chooser(rows)
        for cut in self._cuts(lengths[order], self.most):
            index = given = order[cut]
            if codec.buckets:  # of one size, for compiled models: the last one is repeated
                given = np.pad(index, (0, self.most - len(index)), mode="edge")
            yield index, len(given), codec.for_model(take(chosen[given]))

    def last_layer(self, rows: Rows) -> LastLayer | None:
        """What the last linear layer is given for these rows, in the order of their lengths.

        Returns None where the scorer knows of no such layer, and only the first batch's where the
        layer may not be fitted. Fewer rows than given are run where their inputs would take more
        than 256 MB.
        """
        ask = getattr(self._scorer, "last_layer", None)  # a plain function has none
        parts: list[LastLayer] = []
        if ask is None or len(rows) == 0:
            return None
        numbers = 0
        for index, size, batch in self._batches(rows, np.arange(len(rows))):
            with self._ledger.spending("score"):
                part = ask(batch)
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
            for _, count, batch in self._batches(rows, some):
                self._scores(batch, count)

    def _scores(self, batch: Any, count: int) -> Scores:
        """The scorer's answer for a batch of `count` examples; `ScoreError` for a wrong shape."""
        assert self._scorer is not None
        scores = self._scorer(batch)
        if scores.loss.shape != (count,) or scores.size.shape != (count,):
            raise ScoreError(
                f"the scorer gave {scores.loss.shape} losses and {scores.size.shape} "
                f"sizes for {count} examples; expected one of each per example"
            )
        return scores

    def _score(self, rows: Rows, chosen: IntArray, timed: bool = True) -> Scored:
        codec, n = self._codec, len(chosen)
        prefix: Tensor | None = None
        loss, size = np.empty(n, np.float32), np.empty(n, np.float32)
        for index, count, batch in self._batches(rows, chosen):
            scores = self._scores(batch, count)
            loss[index], size[index] = scores.loss[: len(index)], scores.size[: len(index)]
            if scores.prefix is not None:
                prefix = codec.place(rows, prefix, n, index, scores.prefix)
            if timed:
                self._lap(rows.lengths[chosen[index]])
        return Scored(loss, size, prefix)
