"""What more data would bring, and how the gradient is spread over the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finesieve.insight import folds as fits
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
        base: rows that a head is fitted to if it is fitted to all there are but its own fold; the
            last of `sizes` is smaller where heads are not fitted to so many.
    """

    sizes: Ints
    errors: Floats
    losses: Floats
    now: float
    forecast: dict[float, Estimate]
    base: float

    @property
    def told(self) -> bool:
        """Whether the forecast for twice the data says more than that nobody knows."""
        gain = self.forecast[2.0]
        return len(self.sizes) >= 3 and clear(gain.low, gain.high)


def learning_curve(
    heads: Heads, labels: Ints, probabilities: Floats, seed: int = 0, folds: int = 5
) -> Curve:
    """Fits heads to growing parts of the rows and judges each on rows outside of its part.

    A power law, error = a + b n^-c (Hestness et al. 2017, "Deep learning scaling is predictable,
    empirically"), is fitted to the errors, with and without the floor `a`; the interval is that of
    both together over a bootstrap of the errors, since the data rarely tell which is true.

    Args:
        heads: fits heads to parts of the rows, those that have features.
        labels: int64[n].
        probabilities: float[n, k], out of fold: the last point of the curve. Those of rows without
            features are from elsewhere.
        seed: of the parts.
        folds: that the probabilities are from, so each head of the last point was fitted to all
            rows but one in `folds`, or to as many as a head is ever fitted to.
    """
    among = heads.among
    n = len(among)
    dice = np.random.default_rng([seed, 85])
    whole = (1.0 - 1.0 / folds) * n  # rows that a head of the last point could be fitted to
    sizes, errors, losses, tested = [], [], [], []

    def judged(size: int, p: Floats, y: Ints) -> None:
        sizes.append(size)
        errors.append(float((p.argmax(axis=1) != y).mean()))
        losses.append(float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()))
        tested.append(len(y))

    for rung in _RUNGS:
        size = int(rung * n)
        if size < max(_LEAST, 3 * len(np.unique(labels))) or size >= min(whole, fits.MOST):
            continue
        for _ in range(_REPEATS):
            order = dice.permutation(among)
            outside = order[size : size + _TESTED]
            judged(size, heads.fitted(order[:size])(outside).astype(np.float64), labels[outside])
    judged(min(round(whole), fits.MOST), probabilities[among], labels[among])
    at, y = np.asarray(sizes), np.asarray(errors)
    forecast = _forecast(at, y, _spread(y, np.asarray(tested)), whole, n, dice)
    unique = np.unique(at)

    def means(values: list[float]) -> Floats:
        return np.asarray([np.mean(np.asarray(values)[at == one]) for one in unique])

    # Rows without features are none that it is drawn from: their error stays as it is.
    share = n / len(labels)
    rest = np.ones(len(labels), dtype=bool)
    rest[among] = False
    missed = float((probabilities[rest].argmax(axis=1) != labels[rest]).sum()) / len(labels)
    return Curve(
        np.rint(unique / share).astype(np.int64),
        means(errors) * share + missed,
        means(losses),
        float(y[-1]) * share + missed,
        {
            times: Estimate(share * one.value, share * one.low, share * one.high)
            for times, one in forecast.items()
        },
        whole / share,
    )


def _spread(errors: Floats, tested: Floats | Ints | int) -> Floats:
    """Returns how far error rates may be off by chance, as standard deviations.

    Each error rate was counted on `tested` rows. Two wrong and two right rows are added (Agresti &
    Coull 1998), so that the deviation is not 0 where no row was wrong.
    """
    many = np.asarray(tested) + 4.0
    share = (np.clip(errors, 0.0, 1.0) * tested + 2.0) / many
    out: Floats = np.sqrt(share * (1.0 - share) / many)
    return out


def _forecast(
    sizes: Ints, errors: Floats, spread: Floats, whole: float, n: int, dice: np.random.Generator
) -> dict[float, Estimate]:
    """Returns the changes of the error at `TIMES` the data, from power laws with and without a
    floor.

    Args:
        sizes: int64[m], rows fitted to. errors, spread: float64[m], and their standard deviations.
        whole: rows that a head is fitted to if it is fitted to all there are, but its own.
        n: rows there are.
        dice: of the bootstrap.
    """
    if len(np.unique(sizes)) < 3:
        return {times: Estimate(float("nan"), -1.0, 1.0) for times in TIMES}
    targets = whole * np.asarray([1.0, *TIMES])
    # Where a curve has begun to level off, its early part misleads.
    late = sizes >= sizes.max() / 8.0
    noise = [
        (dice.standard_normal(len(errors)), dice.standard_normal(len(TIMES))) for _ in range(_DRAWS)
    ]
    values = errors + spread * np.stack([one for one, _ in noise])
    at = np.empty((_DRAWS, len(targets)))
    for kind in range(4):  # with and without a floor, by all of the curve and by its late part
        some = late if kind > 1 and len(np.unique(sizes[late])) > 2 else np.ones_like(late)
        at[kind::4] = _power_law(
            sizes[some], values[kind::4, some], spread[some], targets, bool(kind % 2)
        )
    # Whoever checks, counts on rows, partly the same ones as now.
    now = at[:, :1]
    counted = _spread(now, n) * np.sqrt(_COUNTED)
    drawn = at[:, 1:] - now + counted * np.stack([one for _, one in noise])
    low, middle, high = np.percentile(drawn, [2.5, 50, 97.5], axis=0)
    return {
        times: Estimate(float(middle[i]), float(low[i]), float(high[i]))
        for i, times in enumerate(TIMES)
    }


def _power_law(sizes: Ints, values: Floats, spread: Floats, targets: Floats, floor: bool) -> Floats:
    """Returns the values at `targets`, float[k, len(targets)], of the laws a * size ** -c + b that
    fit best.

    Args:
        sizes: int[m]. values: float[k, m], k curves. spread: float[m].
        floor: whether there is a `b`; a, b >= 0, and c is from a grid.
    """
    # Parts differ by more than their tests' noise.
    weight = (1.0 / (spread + 0.02 * values.mean(axis=1, keepdims=True))) ** 2
    total = weight.sum(axis=1)
    best = np.full(len(values), np.inf)
    found = np.repeat(values.mean(axis=1, keepdims=True), len(targets), axis=1)
    for power in _POWERS:
        x = (sizes / sizes.max()) ** -power
        z = (targets / sizes.max()) ** -power
        xx, xy = (weight * x**2).sum(axis=1), (weight * x * values).sum(axis=1)
        if floor:  # weighted least squares of a line, in closed form
            mean, of = (weight * x).sum(axis=1) / total, (weight * values).sum(axis=1) / total
            slope = (xy - total * mean * of) / np.maximum(xx - total * mean**2, 1e-300)
            level = of - slope * mean
        else:
            slope, level = xy / xx, np.zeros(len(values))
        miss = (weight * (slope[:, None] * x + level[:, None] - values) ** 2).sum(axis=1)
        better = (slope >= 0) & (level >= 0) & (miss < best)
        best[better] = miss[better]
        found[better] = (slope[:, None] * z + level[:, None])[better]
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
