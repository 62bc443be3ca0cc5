"""Prices the stages: replays the gates over known sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.gates.sampling import Array, Ascending, class_thresholds, inclusion

POOL = 256  # examples that gates decide on at a time, where policies replay them
_REMEMBERED = 64  # pools whose costs are kept


@dataclass(frozen=True, slots=True)
class Prices:
    """Variance x cost of the stages, in units of plain training's. Below 1 a stage pays.

    Args:
        backward: score all, train on the backward gate's choice.
        forward: score the forward gate's choice, train on the backward gate's choice of those; one
            for each share to be scored. Infinite where unknown.
    """

    backward: float
    forward: list[float]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the replayed gates go by.

    Args:
        cost_ratio: seconds to score an example over seconds to train on one.
        floors: least probability at the forward and at the backward gate.
        audit: share that passes the forward gate whatever is predicted.
        least: share trained on at least, of all and of each label, where no share is given.
    """

    cost_ratio: float
    floors: tuple[float, float]
    audit: float = 0.0
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Known:
    """Examples whose sizes are known, in the order in which gates would decide on them.

    For a pool of n: plain training costs n T and has the gradient variance sum(s^2) / n^2 (up to
    a constant). With probabilities q_i to be scored and p_i to be trained on once scored it costs
    sum(q) F + sum(q p) T and has the variance sum(s^2 / (q p)) / n^2.

    Args:
        size: float64[n].
        weights: float64[n], how many examples each stands for.
        predicted: float64[n], NaN where nothing was predicted; None where nothing ever is.
        labels: [n], of which `Rules.least` holds for each; None: it holds for all together alone.
    """

    size: Array
    weights: Array
    predicted: Array | None = None
    labels: npt.NDArray[Any] | None = None

    def pools(self, n: int) -> list[Known]:
        """Returns these examples as the gates would have them, n at a time."""
        cuts = [slice(i, i + n) for i in range(0, len(self.size), n)]
        return [
            Known(
                self.size[at],
                self.weights[at],
                None if self.predicted is None else self.predicted[at],
                None if self.labels is None else self.labels[at],
            )
            for at in cuts
        ]

    @property
    def foreseen(self) -> bool:
        """Whether all of them were predicted."""
        return self.predicted is not None and bool(np.isfinite(self.predicted).all())

    def chances(self, rules: Rules, score: Sequence[float]) -> Array:
        """Returns the probabilities to be scored, float64[k, n], for each share to be scored."""
        assert self.predicted is not None
        total = float(self.weights.sum())
        known = Ascending.one(self.predicted, rules.floors[0], self.weights)
        thresholds = np.array([known.solve(share * total) for share in score])
        chances = inclusion(self.predicted, thresholds[:, None], rules.floors[0])
        return rules.audit + (1 - rules.audit) * chances

    def costs(self, q: Array, rules: Rules, train: Sequence[float | None]) -> Array:
        """Returns the cost and the variance of this pool, float64[k, 2]: all at once, since
        policies ask for many after every pool.

        Args:
            q: probabilities to be scored, float64[k, n]; 1 where all are.
            train: the share to be trained on that goes with each.
        """
        s, w, floor = self.size, self.weights, rules.floors[1]
        q = np.maximum(q, 1e-12)  # without floor and audit something may never be scored
        total, sizes, weights = float(w.sum()), s / q, w * q
        scoring = (weights.sum(axis=1) * rules.cost_ratio).tolist()
        free = np.array([share is None for share in train])
        thresholds = np.array(
            [
                row.balance(cost, rules.least * total)
                if share is None
                else row.solve(share * total)
                for row, cost, share in zip(
                    Ascending.rows(sizes, floor, weights), scoring, train, strict=True
                )
            ]
        )[:, None]
        if free.any() and rules.least > 0 and self.labels is not None:
            starving = class_thresholds(sizes, self.labels, rules.least, weights, w)
            thresholds = np.where(free[:, None], np.minimum(thresholds, starving), thresholds)
        p = inclusion(sizes, thresholds, floor)
        some = s > 0  # what has no gradient adds no variance, whatever its probability
        whole, parts = w * s * s, q * p
        if not some.all():
            whole, parts = whole[some], np.compress(some, parts, axis=1)
        return np.stack((scoring + (weights * p).sum(axis=1), (whole / parts).sum(axis=1)), axis=1)

    def price(self, pools: Sequence[Array]) -> list[float]:
        """Returns variance x cost in units of plain training's, k numbers, from what `costs` found
        of each pool of these examples."""
        plain = float((self.weights * self.size * self.size).sum())
        cost, variance = np.sum(pools, axis=0).T
        found: list[float] = (cost / self.weights.sum() * variance / plain).tolist()
        return found


def stage_prices(
    size: npt.ArrayLike,
    predicted: npt.ArrayLike | None,
    weights: npt.ArrayLike | None,
    *,
    train: float | None,
    score: Sequence[float],
    cost_ratio: float,
    floors: tuple[float, float],
    audit: float = 0.0,
    least: float = 0.0,
    labels: npt.NDArray[Any] | None = None,
    pool: int | None = None,
    memo: dict[Any, Array] | None = None,
    first: int = 0,
) -> Prices:
    """Replays the gates over known sizes and prices what they would do.

    Args:
        size: float[n], of the examples in order (see `Known`).
        predicted: float[n]; None, or NaN somewhere: only the backward gate has a price.
        weights: float[n], how many examples each stands for (1 by default).
        train: share of the stream trained on; None: what balances variance and cost, but no less
            than `least`.
        score: shares of the stream to consider for scoring.
        cost_ratio, floors, audit, least: as in `Rules`.
        labels: of the examples: `least` holds for each class.
        pool: examples that the gates decide on at a time: sizes fall while a model learns, and what
            differs between pools is nothing that a gate can use; all at once by default.
        memo: keeps what was found of each pool, for the next call: most pools were priced before.
        first: the number of the first example, by which a pool is known again.
    """
    s = np.asarray(size, dtype=np.float64)
    w = np.ones_like(s) if weights is None else np.asarray(weights, dtype=np.float64)
    foreseen = None if predicted is None else np.asarray(predicted, dtype=np.float64)
    known = Known(s, w, foreseen, labels)
    rules = Rules(cost_ratio, floors, audit, least)
    unknown = [float("inf")] * len(score)
    if not float((w * s * s).sum()) > 0:
        return Prices(float("inf"), unknown)
    pools, memo = known.pools(pool or len(s)), {} if memo is None else memo
    while len(memo) > _REMEMBERED:
        del memo[next(iter(memo))]  # the oldest

    shares, each, at = tuple(score) if known.foreseen else (), [], first
    for one in pools:
        key = at, len(one.size), rules, train, shares
        if key not in memo:
            q = np.ones((1, len(one.size)))
            if shares:
                q = np.concatenate((q, one.chances(rules, shares)))
            memo[key] = one.costs(q, rules, [train] * len(q))
        each.append(memo[key])
        at += len(one.size)
    backward, *forward = known.price(each)
    return Prices(backward, forward or unknown)
