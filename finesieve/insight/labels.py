"""Which labels look wrong, and how many are, from probabilities out of sample.

Two views of a label are ranked and their ranks averaged. The first is the probability that the
model gives it (self-confidence; Northcutt, Jiang & Chuang 2021, "Confident learning"). The second
also asks which mistakes are usual: by Bayes' rule, the probability that a label is right, given
the rate at which each class is labelled as each other one. Those rates are read off the rows that
the model is surest of (anchor points; Patrini et al. 2017, "Making deep neural networks robust to
label noise"): there the model hardly errs, so what disagrees is the label. Confident learning's
own count takes the model's errors for wrong labels where classes are hard to tell apart; it is
given beside ours.

How many labels are wrong in all follows from the same rows. Where the model is good, label and
model disagree as often among the surest rows as among those not quite so sure; where it is poor,
less often, the surer it is: then some of the anchors are its own errors. So the share that
disagrees is extended to the surest row of all. The interval reaches from there to what the anchors
say as they are. It never shrinks to nothing: where none of m anchors disagrees, up to about 4 / m
of the rows may still be wrong (the rule of three, Jovanovic & Levy 1997, with both ends of Wilson's
interval).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ANCHORS = 0.25  # of the rows taken for a class: the surest, by which its mistakes are counted
FEWEST = 20  # anchors below which a class goes by the mistakes of all classes
_PRIOR = 10.0  # rows' worth of the mistakes of all classes that each class starts from
_SURE = 0.7  # of what the anchors say is left when it is extended
_VAGUE = 0.05  # of the rows: a wider interval, wide against its low end too, tells nothing
_ROUNDING = 1e-6  # of sums of weights
_NORMAL = 1.96  # standard deviations to either side that hold 95 %
_DRAWS, _ROWS_DRAWN = 200, 10_000_000  # of the bootstrap, and rows in all its draws


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known about n labels of k classes.

    Attributes:
        given: int64[n].
        suggested: int64[n], the most probable class.
        quality: float64[n] in [0, 1], low where the label looks wrong: the mean of the ranks of
            `given_probability` and of `right`, as shares of n.
        given_probability: float64[n], of the label that is given, out of sample.
        right: float64[n], the probability that the given label is right.
        joint: float64[k, k], estimated rows by given label and true one.
        wrong: rows whose label is wrong, in all, if easy rows are so as often as hard ones.
        anchored: the same as the anchors say, not extended.
        confident: the same by confident learning, an upper figure where classes are hard to tell
            apart.
        most: float64[k], rows given each label that may be wrong: upper ends of 95 % intervals.
        issues: int64[m], places of the rows to look at, worst first; as many as may be wrong, by
            the upper end of `wrong` or by `confident`.
    """

    given: Ints
    suggested: Ints
    quality: Floats
    given_probability: Floats
    right: Floats
    joint: Floats
    wrong: Estimate
    anchored: float
    confident: float
    most: Floats
    issues: Ints

    @property
    def told(self) -> bool:
        """Whether `wrong` says more than that nobody knows: False where the model errs so often
        on its surest rows that the interval is wide."""
        wrong = self.wrong
        wide = wrong.high - wrong.low > _VAGUE * len(self.given) and wrong.high > 3.0 * wrong.low
        return not (wide and wrong.value < _SURE * self.anchored)


def judge(
    probabilities: npt.NDArray[np.floating],
    given: Ints,
    seed: int = 0,
    weights: Floats | None = None,
    uneven: float = 0.0,
) -> Judged:
    """Judges every label.

    Args:
        probabilities: float[n, k], each row from a model that was not fitted to it.
        given: int64[n], the labels, 0 to k - 1.
        seed: of the bootstrap.
        weights: float64[n], how many rows each stands for (Horvitz & Thompson 1952): one over its
            chance to be among those that are counted; 0 for rows that are ranked and not counted.
            1 by default. What is counted is scaled to n.
        uneven: by how much the share of wrong labels among the anchors may differ from that among
            all rows, apart from chance: a standard deviation, relative. It widens the interval.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    n, k = p.shape
    here = np.arange(n)
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    w = w * (n / w.sum())
    taken, sure = p.argmax(axis=1), p.max(axis=1)
    surest = np.lexsort((-sure, taken))  # by class, the surest of each first
    surest = surest[w[surest] > 0.0]
    rates = _rates(given[surest], taken[surest], w[surest], k)  # [true, given]
    counts = np.bincount(taken, weights=w, minlength=k)
    of_given = p[here, given]
    right = of_given * rates[given, given] / np.maximum((p * rates[:, given].T).sum(1), 1e-12)
    quality = (_shares(of_given) + _shares(right)) / 2
    dice = np.random.default_rng([seed, 84])
    drawn, some_of = [], len(surest)
    by_place = np.argsort(np.argsort(surest))
    for _ in range(max(20, min(_DRAWS, _ROWS_DRAWN // n))):
        # How often each row is drawn.
        times = np.bincount(dice.integers(0, some_of, some_of), minlength=some_of)
        some = np.repeat(surest, times[by_place])
        drawn.append(_wrong(given[some], taken[some], w[some] * (n / w[some].sum()), k))
    value, anchored = _wrong(given[surest], taken[surest], w[surest], k)
    ends = np.asarray(drawn) * (1.0 + uneven * dice.standard_normal((len(drawn), 1)))
    # Where no row was wrong, no bootstrap sample has one either: its interval is too narrow.
    part = _anchors(taken[surest], w[surest], k)
    least, largest = n * wilson(anchored / n, float(part.sum() ** 2 / np.square(part).sum()))
    low = min(value, float(least), float(np.percentile(ends[:, 0], 2.5)))
    high = max(value, float(largest), float(np.percentile(ends[:, 1], 97.5)))
    sizes = np.bincount(given, minlength=k).astype(np.float64)
    share = _most(given[surest], taken[surest] != given[surest], part, k)
    most: Floats = sizes * np.minimum(1.0, share * (1.0 + _NORMAL * uneven))
    confident = confident_wrong(p[surest], given[surest], w[surest])
    # The worst first; a label that the model agrees with is no issue.
    order = np.argsort(quality, kind="stable")
    order = order[taken[order] != given[order]]
    return Judged(
        given,
        taken,
        quality,
        of_given,
        right,
        (rates * counts[:, None]).T,
        Estimate(value, low, high),
        anchored,
        confident,
        most,
        order[: max(1, round(max(value, high, confident)))],
    )


def confident_wrong(p: Floats, given: Ints, weights: Floats | None = None) -> float:
    """Counts wrong labels as confident learning does (Northcutt et al. 2021, section 3.1).

    A row counts for the most probable class among those whose probability there reaches the mean
    that the class has over its own rows; counts are scaled to the number of rows of each class.

    Args:
        p: float64[n, k].
        given: int64[n].
        weights: float64[n], how many rows each stands for; 1 by default.
    """
    k = p.shape[1]
    w = np.ones(len(p)) if weights is None else weights
    sizes = np.bincount(given, weights=w, minlength=k)
    sums = np.bincount(given, weights=w * p[np.arange(len(p)), given], minlength=k)
    least = np.where(sizes > 0, sums / np.maximum(sizes, 1e-12), np.inf)
    above = p >= least
    found = above.any(axis=1)
    counts = np.zeros((k, k))
    np.add.at(counts, (given[found], np.where(above, p, -1.0).argmax(axis=1)[found]), w[found])
    seen = counts.sum(axis=1)
    agree = np.where(seen > 0, np.diag(counts) / np.maximum(seen, 1e-12), 1.0)
    return float(((1.0 - agree) * sizes).sum())


def _places(taken: Ints, weights: Floats, k: int) -> tuple[Floats, Floats]:
    """Returns for each row what is before it among those taken for its class, and what is in all.

    Args:
        taken: int64[n], sorted.
        weights: float64[n], how many rows each stands for.
        k: classes.
    """
    sizes = np.bincount(taken, weights=weights, minlength=k).astype(np.float64)
    before = np.cumsum(weights) - weights - (np.cumsum(sizes) - sizes)[taken]
    return before, sizes[taken]


def _anchors(taken: Ints, weights: Floats, k: int) -> Floats:
    """Returns how much of each row is an anchor, float64[n]; arguments as of `_places`."""
    before, sizes = _places(taken, weights, k)
    # A row that stands for many others may count as an anchor for some of them only.
    most = np.maximum(1.0, np.floor(ANCHORS * sizes + _ROUNDING))
    part: Floats = np.clip(most - before, 0.0, weights)
    return part


def wilson(share: float | Floats, many: float | Floats) -> Floats:
    """Returns both ends of the 95 % interval of a share (Wilson 1927), float64[2, ...].

    It is as wide as the data allow where the share is 0 or 1, too.

    Args:
        share: that was counted, 0 to 1.
        many: rows that it was counted on; where they have weights, as many as have the same say.
    """
    p, m = np.asarray(share, dtype=np.float64), np.maximum(many, 1e-12)
    square = _NORMAL**2 / m
    half = _NORMAL * np.sqrt(p * (1.0 - p) / m + square / (4.0 * m))
    ends = np.stack([p + square / 2.0 - half, p + square / 2.0 + half]) / (1.0 + square)
    out: Floats = np.clip(ends, 0.0, 1.0)
    return out


def _most(given: Ints, differs: npt.NDArray[np.bool_], part: Floats, k: int) -> Floats:
    """Returns the share of the rows given each label that may be wrong at the most, float64[k].

    Args:
        given: int64[n].
        differs: bool[n], whether the model takes the row for another class.
        part: float64[n], how much of each row is an anchor.
        k: classes.
    """
    anchors, squares, off = (
        np.bincount(given, weights=values, minlength=k)
        for values in (part, np.square(part), part * differs)
    )
    most: Floats = wilson(
        off / np.maximum(anchors, 1e-12), anchors**2 / np.maximum(squares, 1e-12)
    )[1]
    return most


def _rates(given: Ints, taken: Ints, weights: Floats, k: int, prior: float = _PRIOR) -> Floats:
    """Returns the rates float64[k, k] at which rows of a class (first axis) are given each label.

    Args:
        given, taken: int64[n], by class taken, the surest rows of each first.
        weights: float64[n], how many rows each stands for.
        k: classes.
        prior: rows' worth of the mistakes of all classes.
    """
    part = _anchors(taken, weights, k)
    pairs = np.bincount(taken * k + given, weights=part, minlength=k * k)
    counts = pairs.reshape(k, k)
    many = max(counts.sum(), 1.0)
    off = (many - np.trace(counts)) / many if counts.sum() else 0.0
    usual = np.full((k, k), (off + 0.01 * (prior > 0)) / max(1, k - 1))
    np.fill_diagonal(usual, 1.0 - off - 0.01 * (prior > 0))
    few = (np.bincount(taken[part > _ROUNDING], minlength=k) < FEWEST)[:, None]
    counts = counts + usual * np.where(few, max(prior, FEWEST), prior)
    rates: Floats = counts / counts.sum(axis=1, keepdims=True)
    return rates


def _wrong(given: Ints, taken: Ints, weights: Floats, k: int) -> tuple[float, float]:
    """Returns how many rows have a wrong label: extended to the surest row, and as the anchors say;
    arguments as of `_rates`."""
    rates = _rates(given, taken, weights, k, 0.0)
    counts = np.bincount(taken, weights=weights, minlength=k)
    plain = float(((1.0 - np.diag(rates)) * counts).sum())
    before, sizes = _places(taken, weights, k)
    place = (before + weights / 2) / sizes  # as a share: 0 is the surest
    among = place < ANCHORS
    w = weights[among]
    if not len(w):
        return plain, plain
    # The share that disagrees rises steeply at first, so its root is what it is a line of.
    x, y = np.sqrt(np.maximum(place[among], 0.0)), (given != taken)[among].astype(np.float64)
    middle, mean = np.average(x, weights=w), float(np.average(y, weights=w))
    spread = float((w * np.square(x - middle)).sum())
    if mean == 0.0 or spread == 0.0:
        return plain, plain
    slope = max(0.0, float((w * (x - middle) * (y - mean)).sum()) / spread)
    return plain * max(0.0, mean - slope * float(middle)) / mean, plain


def _shares(values: Floats) -> Floats:
    """Returns the ranks of the values as shares, float64[n] in [0, 1]; the smallest value has 0."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    shares: Floats = ranks / max(1, len(values) - 1)
    return shares
