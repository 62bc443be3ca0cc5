"""What more data would bring, and how the gradient is spread over the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finesieve.insight.folds import Heads
from finesieve.insight.labels import Estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
TIMES = (0.5, 2.0, 4.0)  # the data there are
_RUNGS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
_REPEATS, _TESTED, _LEAST = 2, 4_000, 40
_DRAWS = 200
_NARROW = 0.02  # two points of the error
_ALIKE = 0.8  # correlation of whether a row is missed by heads of half and of all the data
_POWERS = np.linspace(0.05, 1.5, 30)


def _counted(times: float) -> float:
    """Returns the variance of the change of an error that is counted on n rows and on `times` as
    many, which hold the n, over that of the error on the n."""
    if times < 1.0:
        return _counted(1.0 / times) / times
    shared, new = 1.0 / times, 1.0 - 1.0 / times
    return (1.0 - _ALIKE * shared) ** 2 + (1.0 - _ALIKE**2) * shared**2 + new * shared


_COUNTED = np.asarray([_counted(times) for times in TIMES])


def clear(low: float, high: float) -> bool:
    """Returns whether the forecast change of the error can be told.

    It can be if the whole interval is below zero, so that the error falls, or if the interval is at
    most two points wide, so that the change is known closely enough.

    Args:
        low, high: ends of the interval, as shares of all rows.
    """
    return high < 0.0 or high - low <= _NARROW


@dataclass(frozen=True, slots=True)
class Curve:
    """The error out of sample by the number of rows fitted to.

    Args:
        sizes: int64[m].
        errors, losses: float64[m], means out of sample.
        forecast: for each of `TIMES` the change of the error against all rows there are, in shares:
            negative is better.
        now: the error with all rows.
    """

    sizes: Ints
    errors: Floats
    losses: Floats
    now: float
    forecast: dict[float, Estimate]

    @property
    def told(self) -> bool:
        """Whether the forecast for twice the data says more than that nobody knows."""
        gain = self.forecast[2.0]
        return len(self.sizes) >= 3 and clear(gain.low, gain.high)


def learning_curve(heads: Heads, labels: Ints, probabilities: Floats, seed: int = 0) -> Curve:
    """Fits heads to growing parts of the rows and judges each on rows outside of its part.

    A power law, error = a + b n^-c (Hestness et al. 2017, "Deep learning scaling is predictable,
    empirically"), is fitted to the errors, with and without the floor `a`; the interval is that of
    both together over a bootstrap of the errors, since the data rarely tell which is true.

    Args:
        heads: fits heads to parts of the rows.
        labels: int64[n].
        probabilities: float[n, k], out of fold: the last point of the curve.
        seed: of the parts.
    """
    n = len(labels)
    dice = np.random.default_rng([seed, 85])
    sizes, errors, losses, tested = [], [], [], []

    def judged(size: int, p: Floats, y: Ints) -> None:
        sizes.append(size)
        errors.append(float((p.argmax(axis=1) != y).mean()))
        losses.append(float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()))
        tested.append(len(y))

    for rung in _RUNGS:
        size = int(rung * n)
        if size < max(_LEAST, 3 * len(np.unique(labels))):
            continue
        for _ in range(_REPEATS):
            order = dice.permutation(n)
            outside = order[size : size + _TESTED]
            judged(size, heads.fitted(order[:size])(outside).astype(np.float64), labels[outside])
    judged(int(0.8 * n), probabilities, labels)
    at, y = np.asarray(sizes), np.asarray(errors)
    spread = np.sqrt(np.maximum(y * (1 - y), 1e-4) / np.asarray(tested))
    forecast = _forecast(at, y, spread, n, dice)
    unique = np.unique(at)

    def means(values: list[float]) -> Floats:
        return np.asarray([np.mean(np.asarray(values)[at == one]) for one in unique])

    return Curve(unique, means(errors), means(losses), y[-1], forecast)


def _forecast(
    sizes: Ints, errors: Floats, spread: Floats, n: int, dice: np.random.Generator
) -> dict[float, Estimate]:
    """Returns the changes of the error at `TIMES` the data, from power laws with and without a
    floor."""
    if len(np.unique(sizes)) < 3:
        return {times: Estimate(float("nan"), -1.0, 1.0) for times in TIMES}
    targets = np.asarray([0.8 * n, *(0.8 * n * times for times in TIMES)])
    late = sizes >= 0.1 * n  # where a curve has begun to level off, its early part misleads
    drawn = []
    for i in range(_DRAWS):
        values = errors + spread * dice.standard_normal(len(errors))
        some = late if i % 4 > 1 and len(np.unique(sizes[late])) > 2 else slice(None)
        at = _power_law(sizes[some], values[some], spread[some], targets, bool(i % 2))
        # Whoever checks, counts on rows, partly the same ones as now.
        counted = np.sqrt(np.clip(at[0] * (1 - at[0]), 0.0, 0.25) / n * _COUNTED)
        drawn.append(at[1:] - at[0] + counted * dice.standard_normal(len(TIMES)))
    low, middle, high = np.percentile(np.stack(drawn), [2.5, 50, 97.5], axis=0)
    return {
        times: Estimate(float(middle[i]), float(low[i]), float(high[i]))
        for i, times in enumerate(TIMES)
    }


def _power_law(sizes: Ints, values: Floats, spread: Floats, targets: Floats, floor: bool) -> Floats:
    """Returns the values at `targets`, float[len(targets)], of the law a * size ** -c + b that fits
    best.

    Args:
        floor: whether there is a `b`; a, b >= 0, and c is from a grid.
    """
    weight = 1.0 / (spread + 0.02 * values.mean())  # parts differ by more than their tests' noise
    best, found = np.inf, np.full(len(targets), values.mean())
    for power in _POWERS:
        x = (sizes / sizes.max()) ** -power
        z = (targets / sizes.max()) ** -power
        columns = [x, np.ones_like(x)] if floor else [x]
        a = np.stack(columns, axis=1)
        solved, *_ = np.linalg.lstsq(a * weight[:, None], values * weight, rcond=None)
        if (solved < 0).any():
            continue
        miss = float(np.square((a @ solved - values) * weight).sum())
        if miss < best:
            best = miss
            found = solved[0] * z + (solved[1] if floor else 0.0)
    return found


def easiest_share(sizes: Floats) -> float:
    """Returns the share of the gradient that the easiest half of the rows carries, 0 to 1.

    Args:
        sizes: float[n], norms of the gradient at the logits, out of sample.
    """
    total = float(sizes.sum())
    return float(np.sort(sizes)[: len(sizes) // 2].sum()) / total if total else 0.0


def gradient_sizes(probabilities: Floats, labels: Ints) -> Floats:
    """Returns the norms of `probabilities - onehot(label)`, float64[n].

    Args:
        probabilities: float[n, classes].
        labels: int64[n].
    """
    p = np.array(probabilities, dtype=np.float64)
    p[np.arange(len(p)), labels] -= 1.0
    return np.asarray(np.linalg.norm(p, axis=1))
