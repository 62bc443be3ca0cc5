"""The scoring pass over a pool: batches of like length, losses checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finesieve.errors import ScoreError
from finesieve.gates import FloatArray
from finesieve.rows import PREFIX, Codec, Rows
from finesieve.scores import Scorer


def cut_by_length(lengths: npt.ArrayLike, most: int, overhead: float) -> list[slice]:
    """Cut examples sorted by length into the cheapest batches.

    A batch costs `overhead` plus its size times its longest example, in tokens; the sum is the
    least possible (dynamic programming over the end of the last batch).

    lengths: int[n], ascending. most: examples a batch at the most.
    """
    longest = np.asarray(lengths, dtype=np.float64)
    n = len(longest)
    least, begin = np.zeros(n + 1), np.zeros(n + 1, dtype=np.int64)
    for end in range(1, n + 1):
        first = max(0, end - most)
        size = end - np.arange(first, end)
        costs = least[first:end] + size * longest[end - 1]
        best = int(costs.argmin())
        least[end], begin[end] = costs[best] + overhead, first + best
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


def score_rows(
    scorer: Scorer, codec: Codec, rows: Rows, most: int, overhead: float,
    done: Callable[[int], None] = lambda tokens: None,
) -> tuple[FloatArray, FloatArray]:
    """Loss and size float32[n], scored in batches of like length.

    What frozen layers put out, if the scorer gives it, becomes a column of the rows.

    most, overhead: see `cut_by_length`. done: called after each forward with its tokens.
    Raises `ScoreError` if the scorer gives other than one loss and one size per example.
    """
    n = len(rows)
    prefix: Tensor | None = None
    loss, size = np.empty(n, np.float32), np.empty(n, np.float32)
    order = np.argsort(rows.lengths, kind="stable")
    if codec.buckets:
        cuts = cut_alike(rows.lengths[order], most, codec.buckets)
    else:
        cuts = cut_by_length(rows.lengths[order], most, overhead)
    for cut in cuts:
        index = order[cut]
        # With fixed lengths the number is fixed too, for compiled models: the last one is repeated.
        given = np.pad(index, (0, most - len(index)), mode="edge") if codec.buckets else index
        scores = scorer(codec.for_model(codec.take(rows, given)))
        if scores.loss.shape != given.shape or scores.size.shape != given.shape:
            raise ScoreError(
                f"the scorer gave {scores.loss.shape} losses and {scores.size.shape} "
                f"sizes for {len(given)} examples; expected one of each per example"
            )
        loss[index], size[index] = scores.loss[: len(index)], scores.size[: len(index)]
        if scores.prefix is not None:
            prefix = codec.place(rows, prefix, index, scores.prefix)
        done(int(rows.lengths[index].sum()))
    if prefix is not None:
        rows.columns[PREFIX] = prefix
    return loss, size
