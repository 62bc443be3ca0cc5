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


def judge(
    probabilities: npt.NDArray[np.floating],
    given: Ints,
    seed: int = 0,
    among: Ints | None = None,
) -> Judged:
    """Judges every label.

    Args:
        probabilities: float[n, k], each row from a model that was not fitted to it.
        given: int64[n], the labels, 0 to k - 1.
        seed: of the bootstrap.
        among: int64[m], places of the rows that the model has seen; all by default. The others are
            so easy that no anchors are taken from them; their wrong labels are counted apart.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    n, k = p.shape
    here = np.arange(n)
    taken, sure = p.argmax(axis=1), p.max(axis=1)
    surest = np.lexsort((-sure, taken))  # by class, the surest of each first
    easy = np.empty(0, dtype=np.int64)
    if among is not None and len(among) < n:
        seen = np.zeros(n, dtype=bool)
        seen[among] = True
        surest, easy = surest[seen[surest]], surest[~seen[surest]]
    rates = _rates(given[surest], taken[surest], k)  # [true, given]
    counts = np.bincount(taken[surest], minlength=k).astype(np.float64)
    of_given = p[here, given]
    right = of_given * rates[given, given] / np.maximum((p * rates[:, given].T).sum(1), 1e-12)
    quality = (_shares(of_given) + _shares(right)) / 2
    dice = np.random.default_rng([seed, 84])
    drawn, most = [], len(surest)
    by_place = np.argsort(np.argsort(surest))
    for _ in range(max(20, min(_DRAWS, _ROWS_DRAWN // n))):
        # How often each row is drawn.
        times = np.bincount(dice.integers(0, most, most), minlength=most)
        some = np.repeat(surest, times[by_place])
        drawn.append(_wrong(given[some], taken[some], k))
    value, anchored = _wrong(given[surest], taken[surest], k)
    more = _wrong(given[easy], taken[easy], k)[1] if len(easy) else 0.0
    low = np.percentile([extended for extended, _ in drawn], 2.5)
    high = np.percentile([plain for _, plain in drawn], 97.5)
    confident = confident_wrong(p, given)
    joint = (rates * counts[:, None]).T
    np.add.at(joint, (given[easy], taken[easy]), 1.0)
    # The worst first; a label that the model agrees with is no issue.
    order = np.argsort(quality, kind="stable")
    order = order[taken[order] != given[order]]
    return Judged(
        given,
        taken,
        quality,
        of_given,
        right,
        joint,
        Estimate(value + more, float(min(low, value)) + more, float(max(high, value)) + more),
        anchored + more,
        confident,
        order[: max(1, round(max(value, high, confident) + more))],
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


def _places(taken: Ints, k: int) -> tuple[Ints, Ints]:
    """Returns for each row its place among those taken for its class, from 0, and their number.

    Args:
        taken: int64[n], sorted.
        k: classes.
    """
    sizes = np.bincount(taken, minlength=k)
    inside = np.arange(len(taken)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return inside, np.repeat(sizes, sizes)


def _rates(given: Ints, taken: Ints, k: int, prior: float = _PRIOR) -> Floats:
    """Returns the rates float64[k, k] at which rows of a class (first axis) are given each label.

    Args:
        given, taken: int64[n], by class taken, the surest rows of each first.
        k: classes.
        prior: rows' worth of the mistakes of all classes.
    """
    inside, sizes = _places(taken, k)
    among = inside < np.maximum(1, (ANCHORS * sizes).astype(np.int64))
    pairs = np.bincount(taken[among] * k + given[among], minlength=k * k)
    counts = pairs.reshape(k, k).astype(np.float64)
    most = max(counts.sum(), 1.0)
    off = (most - np.trace(counts)) / most if counts.sum() else 0.0
    usual = np.full((k, k), (off + 0.01 * (prior > 0)) / max(1, k - 1))
    np.fill_diagonal(usual, 1.0 - off - 0.01 * (prior > 0))
    few = counts.sum(axis=1, keepdims=True) < FEWEST
    counts = counts + usual * np.where(few, max(prior, FEWEST), prior)
    rates: Floats = counts / counts.sum(axis=1, keepdims=True)
    return rates


def _wrong(given: Ints, taken: Ints, k: int) -> tuple[float, float]:
    """Returns how many rows have a wrong label: extended to the surest row, and as the anchors say;
    arguments as of `_rates`."""
    rates = _rates(given, taken, k, 0.0)
    plain = float(((1.0 - np.diag(rates)) * np.bincount(taken, minlength=k)).sum())
    inside, sizes = _places(taken, k)
    place = (inside + 0.5) / sizes  # as a share: 0 is the surest
    among = place < ANCHORS
    # The share that disagrees rises steeply at first, so its root is what it is a line of.
    x, y = np.sqrt(place[among]), (given != taken)[among].astype(np.float64)
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
