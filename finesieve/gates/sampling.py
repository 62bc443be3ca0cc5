"""Threshold sampling: the gate, and how its threshold is found."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from finesieve.errors import check_cost_ratio, check_share
from finesieve.gates.dice import Dice, strata
from finesieve.gates.protocol import Gate, Limits, Offer, State, Verdict

Array = npt.NDArray[np.float64]
_ROUNDING = 1 + 1e-9  # where two numbers may be one but for rounding
_NEARER = 2  # steps towards a threshold, around which it is then searched for


def inclusion(sizes: npt.ArrayLike, threshold: float | Array, floor: float = 0.0) -> Array:
    """Returns p = min(1, max(size / threshold, floor)), float64 of the shape of both together.

    Threshold sampling: Duffield, Lund & Thorup, "Learn more, sample less", 2005. For a given
    expected number kept no other choice of probabilities has a smaller variance of the sum.
    """
    s = np.asarray(sizes, dtype=np.float64)
    t = np.asarray(threshold, dtype=np.float64)
    if (t > 0).all():
        p = s / t
    else:
        p = np.ones(np.broadcast_shapes(s.shape, t.shape))
        np.divide(s, t, out=p, where=t > 0)
    return np.minimum(np.maximum(p, floor), 1.0)


class Ascending:
    """Sizes in ascending order, and the sums below each: what searches for thresholds need.

    At threshold t, examples with s >= t have p = 1, and those with s <= floor * t have p = floor.

    Args:
        points: thresholds where an example's p reaches 1 or the floor, ascending.
        total: of all weights.
        weights, linear, square: running sums of w, w s and w s^2, n + 1 of them. All are sequences
            of plain numbers, because a search looks at a few places alone.
    """

    def __init__(
        self,
        floor: float,
        total: float,
        sizes: Array,
        points: Array,
        weights: Sequence[float],
        linear: Array,
        square: Array,
    ) -> None:
        self.floor, self.total, self.weights = floor, total, weights
        self._sizes, self.points = _numbers(sizes), _numbers(points)
        self.linear, self.square = _numbers(linear), _numbers(square)

    @classmethod
    def rows(
        cls, sizes: npt.ArrayLike, floor: float, weights: npt.ArrayLike | None = None
    ) -> list[Ascending]:
        """Returns one for each row of sizes, all of them sorted and summed at once.

        Args:
            sizes: [k, n], non-negative and finite.
            floor: the least probability.
            weights: [k, n], how many examples each stands for (1 by default).
        """
        s = np.asarray(sizes, dtype=np.float64)
        if weights is None:
            s = np.sort(s, axis=1)
            ws, n = s, s.shape[1]
            totals: list[float] = [n] * len(s)
            sums: list[Sequence[float]] = [range(n + 1)] * len(s)
        else:
            w = np.asarray(weights, dtype=np.float64)
            totals, order = w.sum(axis=1).tolist(), np.argsort(s, axis=1)
            order += np.arange(0, s.size, s.shape[1])[:, None]  # as if all rows were one
            s, w = s.take(order), w.take(order)
            ws, sums = w * s, [_numbers(row) for row in _running(w)]
        points = s
        if floor > 0:
            points = np.concatenate((s, s / floor), axis=1)
            points.sort(axis=1, kind="stable")  # two runs in order, which are only merged
        each = points.shape[1] // max(1, s.shape[1])  # points of a size; those of 0 are of no use
        zeros = np.count_nonzero(s <= 0.0, axis=1).tolist()
        made = []
        for total, own, its, none, *others in zip(
            totals, s, points, zeros, sums, _running(ws), _running(ws * s), strict=True
        ):
            made.append(cls(floor, total, own, its[each * none :], *others))
        return made

    @classmethod
    def one(
        cls, sizes: npt.ArrayLike, floor: float, weights: npt.ArrayLike | None = None
    ) -> Ascending:
        """Returns that of a single row, sizes and weights [n]."""
        rows = cls.rows(
            np.asarray(sizes)[None], floor, None if weights is None else np.asarray(weights)[None]
        )
        return rows[0]

    def _parts(self, t: float) -> tuple[float, float, float]:
        """Return what is expected at threshold t of the certain, of the floored, and t times that
        of all between."""
        weights, linear, floor = self.weights, self.linear, self.floor
        ones = bisect_left(self._sizes, t)
        low = bisect_right(self._sizes, floor * t, 0, ones) if floor > 0 else 0
        return weights[-1] - weights[ones], floor * weights[low], linear[ones] - linear[low]

    def _first(self, reached: Callable[[float], bool], near: float) -> int:
        """Return the first point that is `reached`, as all behind it are; their number if none.

        Args:
            near: a guess of the threshold; the search goes out from it in steps that double.
        """
        points, step = self.points, 1
        low = high = bisect_left(points, near)
        if low == len(points) or reached(points[low]):
            while low > 0 and reached(points[low - 1]):
                low, high, step = max(0, low - step), low - 1, 2 * step
        else:
            low, high = low + 1, low + 1
            while high < len(points) and not reached(points[high]):
                low, high, step = high + 1, min(high + step, len(points)), 2 * step
        return bisect_left(points, True, low, high, key=reached)

    def _inside(self, at: int) -> float:
        """Return a threshold on the piece that ends in this point: who is where in it is the same
        all over the piece."""
        return ((self.points[at - 1] if at else 0.0) + self.points[at]) / 2

    def solve(self, target: float) -> float:
        """Returns what `solve_threshold` does."""
        points = self.points
        if target >= self.total:
            return 0.0
        if not points:
            return float("inf")

        near = self.linear[-1] / target if target > 0 else points[-1]
        for _ in range(_NEARER):  # Newton's method: each piece's own solution leads to the next
            certain, floored, middle = self._parts(near)
            rest = target - certain - floored
            if rest > 0 and middle > 0:
                near = middle / rest
        at = self._first(lambda t: self._kept(t) <= target, near)
        if at == len(points):
            # Past the largest size every p is s / t.
            return points[-1] if self.floor > 0 else self.linear[-1] / target
        certain, floored, middle = self._parts(self._inside(at))
        rest = target - certain - floored
        if rest <= 0 or middle <= 0:
            return points[at]
        return min(points[at], middle / rest)

    def balance(self, scoring: float, least: float = 0.0) -> float:
        """Returns what `balanced_threshold` does."""
        points, sizes, floor = self.points, self._sizes, self.floor
        if not points:
            return 0.0
        weights, square = self.weights, self.square
        whole, most = square[-1], scoring + weights[-1]

        def sides(t: float) -> tuple[float, float]:
            """V and K without what both have in common."""
            ones = bisect_left(sizes, t)
            low = bisect_right(sizes, floor * t, 0, ones) if floor > 0 else 0
            v = whole - square[ones] + (square[low] / floor if floor > 0 else 0.0)
            return v, most - weights[ones] + floor * weights[low]

        def above(t: float) -> bool:
            """Whether t^2 K is no less than V; their difference rises with t."""
            v, k = sides(t)
            return t * t * k >= v * (1 - 1e-12)

        near = math.sqrt(whole / most) if most > 0 else points[-1]
        for _ in range(_NEARER):  # Newton's method for t^2 K = V
            v, k = sides(near)
            if k * near > 0:
                near = (near + v / (k * near)) / 2
        at = self._first(above, near)
        if at == len(points):
            free = points[-1]
        else:
            v, k = sides(self._inside(at))
            free = points[at]
            if k > 0:
                free = min(max(math.sqrt(v / k), points[at - 1] if at else 0.0), free)
        return min(free, self.solve(least)) if self._kept(free) < least * _ROUNDING else free

    def _kept(self, t: float) -> float:
        """Return the expected number kept at threshold t."""
        certain, floored, middle = self._parts(t)
        return certain + floored + middle / t


def _numbers(values: Array) -> Sequence[float]:
    """Return a row of values as plain numbers, each made when it is asked for."""
    return cast("Sequence[float]", values.data)


def _running(values: Array) -> Array:
    """Return 0 and the running sums of each row, float64[k, n + 1] for [k, n]."""
    found = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=found[:, 1:])
    return found


def solve_threshold(
    sizes: npt.ArrayLike,
    target: float,
    floor: float = 0.0,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Returns the threshold at which `inclusion` keeps `target` examples in expectation.

    Exact: between two neighbouring sizes (as thresholds: where an example's p reaches 1, or the
    floor) the expected number is linear in 1 / threshold, so the right piece is found by a search
    over sorted break points and then solved in closed form.

    Args:
        sizes: float[n], non-negative and finite.
        target: expected number kept, sum of weights * p.
        floor: least probability, in [0, 1].
        weights: float[n], how many examples each stands for (1 by default).

    Returns:
        0.0 (keep all) if the target is not below the total, and the largest threshold of use if
            even the floor keeps more than the target.
    """
    return Ascending.one(sizes, floor, weights).solve(target)


def balanced_threshold(
    sizes: npt.ArrayLike,
    scoring: float,
    floor: float = 0.0,
    weights: npt.ArrayLike | None = None,
    least: float = 0.0,
) -> float:
    """Returns the threshold at which variance x cost is least.

    With p = `inclusion(sizes, t, floor)` the variance is V = sum(w size^2 / p) and the cost, in
    training steps of one example, K = scoring + sum(w p). d(V K)/dt = 0 where t^2 = V / K, and what
    lies between the floor and 1 adds t * sum(w size) to both sides of t^2 K = V, so that without a
    floor

        sum over size >= t of w ((size / t)^2 - 1)  =  scoring:

    the more scoring has cost already, the more is trained on.

    Args:
        sizes: float[n], non-negative and finite.
        scoring: what their scoring cost, in training steps of one example (number scored x cost
            ratio).
        floor: least probability, in [0, 1].
        weights: float[n], how many examples each stands for.
        least: expected number kept at least: the threshold is lowered until it is.

    Returns:
        0.0 (keep all) if no example has a size, and the largest size if scoring is free.
    """
    return Ascending.one(sizes, floor, weights).balance(scoring, least)


def class_thresholds(
    sizes: npt.ArrayLike,
    labels: npt.ArrayLike,
    least: float,
    weights: npt.ArrayLike | None = None,
    drawn: npt.ArrayLike | None = None,
) -> Array:
    """Returns float64 of the shape of `sizes`, the highest threshold that does not starve an
    example's class.

    It is the mean size of the class over `least`, so that of every class the share `least` is kept
    in expectation (a little less where some of its examples are certain). Under one threshold for
    all, hardly anything would be kept of a class that is small and easy, and it would be learned
    from a few examples of large weight.

    Args:
        sizes: [n], or [k, n] for k ways to weigh the same examples; non-negative and finite.
        labels: int[n].
        least: share of each class, in (0, 1].
        weights: of the shape of `sizes`, how often each is expected to be here (1 by default).
        drawn: [n], how many of the stream's examples each stands for (as `weights` by default).
    """
    s = np.asarray(sizes, dtype=np.float64)
    w = None if weights is None else np.asarray(weights, dtype=np.float64)
    kinds = np.asarray(labels)
    if kinds.dtype.kind != "i" or (len(kinds) and not 0 <= kinds.min() <= kinds.max() < 1024):
        kinds = np.unique(kinds, return_inverse=True)[1]
    count = w if drawn is None else np.asarray(drawn, dtype=np.float64)
    if s.ndim > 1:  # as if each row had classes of its own
        kinds = kinds + np.arange(len(s))[:, None] * (1 + int(kinds.max(initial=0)))
        count = None if count is None else np.broadcast_to(count, s.shape)
    flat = kinds.ravel()
    counts = np.bincount(flat, None if count is None else count.ravel())
    totals = np.bincount(flat, (s if w is None else w * s).ravel())
    bound = np.full(len(totals), np.inf)  # no sizes, nothing to starve
    np.divide(totals, least * counts, out=bound, where=totals > 0)
    return np.asarray(bound[kinds])


class ThresholdSampling(Gate):
    """Keep example i with probability min(1, size_i / threshold); weigh it 1 / probability.

    The threshold is found anew for every pool: there is no history that could lag behind a
    falling loss. Either such that the expected number kept is `share` of the pool, or, without a
    share, such that variance x cost is least (`balanced_threshold`). Unbiased whatever the sizes
    are; of least variance if they are right.

    At the forward gate the sizes are the predicted ones (inside a `PredictorGate`); at the
    backward gate they are the measured ones divided by the probability of having been scored.

    Args:
        share: expected share of the pool *drawn* that is kept, in (0, 1], where the offer asks for
            no other; None: balance (only behind a scoring pass: before it, the policy gives the
            share).
        floor: the least probability, in [0, 1]: bounds the weights. What looks worthless now may
            still teach under dropout, or be mispredicted; without a floor it would come, rarely,
            with a weight that spoils the step.
        cost_ratio: seconds to score an example over seconds to train on it; None: as the sieve
            measures it.
        least: share kept at least, of the pool and of each label in it, whatever the balance says:
            variance is not all, the optimizer needs steps too, and a small class needs examples.
            Both of use only without a share.
        systematic: keep of every label and size as many as expected (`Dice.systematic`), instead of
            rolling for each example alone: the probabilities are the same, the variance is smaller.
    """

    def __init__(
        self,
        share: float | None,
        floor: float = 0.02,
        seed: int = 0,
        cost_ratio: float | None = None,
        least: float = 0.0,
        systematic: bool = True,
    ) -> None:
        self.systematic = systematic
        self.share = None if share is None else check_share("share", share)
        self.least = check_share("least", least, zero=True)
        self.cost_ratio = check_cost_ratio(cost_ratio)
        self.floor = check_share("floor", floor, zero=True)
        self._dice = Dice(seed, "threshold sampling")

    def decide(self, offer: Offer) -> Verdict:
        """Keeps each example with the probability that `inclusion` gives its size, at the threshold
        of the share asked for, else at the one of least variance x cost.

        Raises:
            GateError: for an offer without sizes.
        """
        sizes = np.asarray(offer.need("size", self), dtype=np.float64)
        if offer.probability is not None:
            sizes = sizes / offer.probability
        drawn = offer.n if offer.drawn is None else offer.drawn
        share = self.share if offer.share is None else offer.share
        if share is None:
            ratio = offer.cost_ratio if self.cost_ratio is None else self.cost_ratio
            threshold = balanced_threshold(
                sizes, ratio * offer.n, self.floor, least=self.least * drawn
            )
        else:
            threshold = solve_threshold(sizes, share * drawn, self.floor)
        bound: float | Array = threshold
        if share is None and self.least > 0 and offer.features is not None:
            stood = None if offer.probability is None else 1.0 / offer.probability
            starving = class_thresholds(sizes, offer.features.cross, self.least, drawn=stood)
            bound = np.minimum(threshold, starving)
        p = inclusion(sizes, bound, self.floor).astype(np.float32)
        if self.systematic:
            keep = self._dice.systematic(p, strata(offer, sizes))
        else:
            keep = self._dice.uniform(offer.n) < p
        return Verdict(keep, p, threshold=threshold)

    def limits(self) -> Limits:
        """Returns the gate's share, least share and floor, and the cost ratio that it was told."""
        return Limits(self.share, self.least, self.floor, cost_ratio=self.cost_ratio)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"dice": self._dice.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._dice.load_state_dict(state["dice"])
