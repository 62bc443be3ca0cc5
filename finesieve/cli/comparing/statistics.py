"""Paired differences of runs, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from finesieve.cli.results import Record, unpack_examples


@dataclass(frozen=True)
class Difference:
    """Mean of (ours - rival), with its 95 % interval. Of losses, negative ones are in our
    favour."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """better, worse, tie; or that one seed tells too little: two runs of the same method
        differ by more than the test examples' own spread."""
        if self.seeds < 2:
            return "one seed"
        if self.high < 0:
            return "better"
        if self.low > 0:
            return "worse"
        return "tie"


@cache
def t_quantile(p: float, df: float) -> float:
    """Returns a quantile of Student's t distribution, by bisection on its integrated density."""
    if df <= 0:
        return math.inf
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)

    def upper(t: float) -> float:
        # With x = t / u the tail becomes a finite integral, u from 0 to 1.
        u = np.linspace(1e-9, 1.0, 4001)
        x = t / u
        density = scale * (1 + x * x / df) ** (-(df + 1) / 2)
        height = density * t / (u * u)  # by trapezia; NumPy 1.26 has no np.trapezoid
        return float((np.diff(u) * (height[1:] + height[:-1]) / 2.0).sum())

    low, high = 1e-6, 1e4
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if upper(middle) > 1 - p else (low, middle)
    return low


def paired(differences: npt.ArrayLike) -> Difference:
    """Returns the mean of differences of paired runs, and its interval.

    Both seeds and test examples are samples. The interval's half-widths for either alone (Student's
    t, from the spread of the seeds' means and of the examples' means) are added in squares: wide
    enough whichever part rules. With one seed it speaks for the test examples alone.

    Args:
        differences: float[seeds, examples].
    """
    d = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    seeds, n = d.shape
    if n < 2:
        raise ValueError(f"differences of {n} test examples; expected 2 or more")
    half = _half_width(d.mean(axis=0))
    if seeds > 1:
        half = math.hypot(half, _half_width(d.mean(axis=1)))
    mean = float(d.mean())
    return Difference(mean, mean - half, mean + half, seeds)


def _half_width(values: npt.NDArray[np.float64]) -> float:
    """Returns half the width of the 95 % interval of the mean of independent values float64[n]."""
    n = len(values)
    return t_quantile(0.975, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)


def compare_runs(
    ours: Iterable[Record], rivals: Iterable[Record], what: str = "loss"
) -> Difference | None:
    """Returns the mean difference, paired by seed on the same test examples; None if no seed has
    both.

    Args:
        ours, rivals: records of runs.
        what: "loss", or "right" for the difference of accuracies.
    """
    column = 0 if what == "loss" else 1
    by_seed = {r["seed"]: unpack_examples(r["eval_examples"])[column] for r in rivals}
    rows = []
    for r in ours:
        other = by_seed.get(r["seed"])
        mine = unpack_examples(r["eval_examples"])[column]
        if other is not None and len(other) == len(mine):
            rows.append(mine.astype(np.float64) - other.astype(np.float64))
    lengths = {len(r) for r in rows}
    if len(lengths) == 1:
        return paired(np.stack(rows))
    if rows:  # held out anew for each seed: the seeds have no test examples in common
        least = min(lengths)
        return paired(np.stack([r[:least] for r in rows]))
    return None


def overall(relative: Sequence[float], halves: Sequence[float] = ()) -> Difference:
    """Returns the mean over sets of one relative difference a set, with its interval over sets.

    Few sets that happen to be close to each other prove little: the interval is no narrower than
    the sets' own allow, added in squares.

    Args:
        relative: of each set.
        halves: half-widths of the sets' own intervals.
    """
    values = np.asarray(relative, dtype=np.float64)
    if len(values) < 2:
        return Difference(float(values.mean()), -math.inf, math.inf, len(values))
    own = math.sqrt(sum(h * h for h in halves)) / len(values)
    half = max(_half_width(values), own)
    mean = float(values.mean())
    return Difference(mean, mean - half, mean + half, len(values))
