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
say as they are.
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
    issues: Ints

    @property
    def told(self) -> bool:
        """Whether `wrong` says more than that nobody knows: False where the model errs so often
        on its surest rows that the interval is wide."""
        wrong = self.wrong
        wide = wrong.high - wrong.low > _VAGUE * len(self.given) and wrong.high > 3.0 * wrong.low
        return not (wide and wrong.value < _SURE * self.anchored)


def judge(probabilities: npt.NDArray[np.floating], given: Ints, seed: int = 0) -> Judged:
    """Judges every label.

    Args:
        probabilities: float[n, k], each row from a model that was not fitted to it.
        given: int64[n], the labels, 0 to k - 1.
        seed: of the bootstrap.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    n, k = p.shape
    here = np.arange(n)
    taken, sure = p.argmax(axis=1), p.max(axis=1)
    rates = _rates(given, taken, sure, k)  # [true, given]
    counts = np.bincount(taken, minlength=k).astype(np.float64)
    of_given = p[here, given]
    right = of_given * rates[given, given] / np.maximum((p * rates[:, given].T).sum(1), 1e-12)
    quality = (_shares(of_given) + _shares(right)) / 2
    dice = np.random.default_rng([seed, 84])
    drawn = [
        _wrong(given[some], taken[some], sure[some], k)
        for some in (dice.integers(0, n, n) for _ in range(max(20, min(_DRAWS, _ROWS_DRAWN // n))))
    ]
    value, anchored = _wrong(given, taken, sure, k)
    low = np.percentile([extended for extended, _ in drawn], 2.5)
    high = np.percentile([plain for _, plain in drawn], 97.5)
    confident = confident_wrong(p, given)
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
        Estimate(value, float(min(low, value)), float(max(high, value))),
        anchored,
        confident,
        order[: max(1, round(max(value, high, confident)))],
    )


def confident_wrong(p: Floats, given: Ints) -> float:
    """Counts wrong labels as confident learning does (Northcutt et al. 2021, section 3.1).

    A row counts for the most probable class among those whose probability there reaches the mean
    that the class has over its own rows; counts are scaled to the number of rows of each class.
    """
    k = p.shape[1]
    sizes = np.bincount(given, minlength=k)
    sums = np.bincount(given, weights=p[np.arange(len(p)), given], minlength=k)
    least = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    above = p >= least
    found = above.any(axis=1)
    counts = np.zeros((k, k))
    np.add.at(counts, (given[found], np.where(above, p, -1.0).argmax(axis=1)[found]), 1.0)
    agree = np.diag(counts) / np.maximum(counts.sum(axis=1), 1.0)
    agree[counts.sum(axis=1) == 0] = 1.0
    return float(((1.0 - agree) * sizes).sum())


def _rates(given: Ints, taken: Ints, sure: Floats, k: int, prior: float = _PRIOR) -> Floats:
    """Returns the rates float64[k, k] at which rows of a class (first axis) are given each
    label."""
    counts = np.zeros((k, k))
    for one in range(k):
        rows = np.flatnonzero(taken == one)
        if len(rows):
            rows = rows[np.argsort(-sure[rows], kind="stable")[: max(1, int(ANCHORS * len(rows)))]]
            counts[one] = np.bincount(given[rows], minlength=k)
    most = max(counts.sum(), 1.0)
    off = (most - np.trace(counts)) / most if counts.sum() else 0.0
    usual = np.full((k, k), (off + 0.01 * (prior > 0)) / max(1, k - 1))
    np.fill_diagonal(usual, 1.0 - off - 0.01 * (prior > 0))
    few = counts.sum(axis=1, keepdims=True) < FEWEST
    counts = counts + usual * np.where(few, max(prior, FEWEST), prior)
    rates: Floats = counts / counts.sum(axis=1, keepdims=True)
    return rates


def _wrong(given: Ints, taken: Ints, sure: Floats, k: int) -> tuple[float, float]:
    """Returns how many rows have a wrong label: extended to the surest row, and as the anchors
    say."""
    rates = _rates(given, taken, sure, k, 0.0)
    plain = float(((1.0 - np.diag(rates)) * np.bincount(taken, minlength=k)).sum())
    # Places of rows among those taken for the same class, as shares: 0 is the surest.
    order = np.lexsort((-sure, taken))
    sizes = np.bincount(taken, minlength=k)
    inside = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (inside + 0.5) / np.repeat(np.maximum(sizes, 1), sizes)
    among = place < ANCHORS
    # The share that disagrees rises steeply at first, so its root is what it is a line of.
    x, y = np.sqrt(place[among]), (given != taken)[order][among].astype(np.float64)
    middle, mean = x.mean(), y.mean()
    spread = float(np.square(x - middle).sum())
    if mean == 0.0 or spread == 0.0:
        return plain, plain
    slope = max(0.0, float(((x - middle) * (y - mean)).sum()) / spread)
    return plain * max(0.0, mean - slope * middle) / mean, plain


def _shares(values: Floats) -> Floats:
    """Returns the ranks of the values as shares, float64[n] in [0, 1]; the smallest value has 0."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    shares: Floats = ranks / max(1, len(values) - 1)
    return shares
