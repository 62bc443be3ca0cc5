"""Examples sorted by length cut into batches: the cheapest, or those of a few fixed widths."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_ENDS, _MOST_COSTS = 64, 2**20  # of `cut_by_length`: worked on at once, and what that may take


def cut_by_length(
    lengths: npt.ArrayLike, most: int, overhead: float, budget: float = float("inf")
) -> list[slice]:
    """Cuts examples sorted by length into the cheapest batches.

    A batch costs `overhead` plus its size times its longest example, in tokens; the sum is the
    least possible. least[end] = min over first of least[first] + (end - first) * longest[end - 1] +
    overhead is what the first `end` examples cost, with the last batch beginning at `first`. Many
    ends are worked on at once, again and again until none gets cheaper: as many times as they are
    batches apart, which are few.

    Args:
        lengths: int[n], ascending.
        most: examples a batch at the most.
        overhead: fixed cost of a batch, in tokens.
        budget: padded tokens a batch at the most; an example that is longer is alone.

    Returns:
        The places of each batch's examples, in order.
    """
    longest = np.asarray(lengths, dtype=np.float64)
    n = len(longest)
    most = min(most, n)
    if most == n > 0:  # all at once, where any cut costs more than the padding that it saves
        whole = n * longest[-1]
        if whole <= budget and whole <= overhead + longest.sum():
            return [slice(0, n)]
    if overhead > 0 and n > 0:
        cuts = _between_lengths(longest, overhead)
        most_tokens = max((cut.stop - cut.start) * longest[cut.stop - 1] for cut in cuts)
        if max(cut.stop - cut.start for cut in cuts) <= most and most_tokens <= budget:
            return cuts
    # Of `end`, the batch that begins at `end - most + j` is in row j; nothing begins before 0.
    least, begin = np.full(most + n + 1, np.inf), np.zeros(n + 1, dtype=np.int64)
    least[most] = 0.0
    size = np.arange(most, 0, -1, dtype=np.float64)[:, None]
    wide = min(_ENDS, max(1, _MOST_COSTS // max(1, most)))
    for low in range(1, n + 1, wide):
        high = min(low + wide, n + 1)
        own = size * longest[low - 1 : high - 1]
        if most * longest[high - 2] > budget:
            own[(own > budget) & (size > 1)] = np.inf
        before: npt.NDArray[np.float64] = np.ndarray(
            own.shape, np.float64, least, low * least.itemsize, least.strides * 2
        )
        here, costs = least[low + most : high + most], np.empty_like(own)
        while True:
            np.add(before, own, out=costs)
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


def _between_lengths(longest: npt.NDArray[np.float64], overhead: float) -> list[slice]:
    """Cut between examples of different lengths alone, batches being as large as they may.

    There the cheapest cuts are, if none of the batches is too large: to move a cut that stands
    between two examples of one length to the end of that length costs nothing.

    Args:
        longest: float64[n], ascending.
    """
    ends = np.flatnonzero(np.diff(longest, append=np.inf)) + 1
    places, least, begin, lowest = [0, *ends.tolist()], [0.0], [0], 0
    for end, length in zip(places[1:], longest[ends - 1].tolist(), strict=True):
        best = math.inf
        # The more examples, the later the last batch begins: none before the one found last.
        for i in range(lowest, len(least)):
            cost = least[i] + (end - places[i]) * length
            if cost < best:
                best, lowest = cost, i
        least.append(best + overhead)
        begin.append(lowest)
    cuts, at = [], len(ends)
    while at > 0:
        cuts.append(slice(places[begin[at]], places[at]))
        at = begin[at]
    return cuts[::-1]


def cut_alike(lengths: npt.NDArray[np.int64], most: int, buckets: list[int]) -> list[slice]:
    """Cut examples sorted by length into batches that are padded to the same of `buckets`.

    Args:
        lengths: int[n], ascending.
        most: examples a batch at the most.
    """
    ends = [int(e) for e in np.searchsorted(lengths, buckets, side="right")]
    cuts, begin = [], 0
    for end in [*ends[:-1], len(lengths)]:
        cuts += [slice(i, min(i + most, end)) for i in range(begin, end, most)]
        begin = max(begin, end)
    return cuts
