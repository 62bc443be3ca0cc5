"""Prices the stages: replays the gates over known sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.gates.sampling import (
    Array,
    balanced_threshold,
    class_thresholds,
    inclusion,
    solve_threshold,
)

POOL = 256  # examples that gates decide on at a time, where policies replay them


@dataclass(frozen=True, slots=True)
class Prices:
    """Variance x cost of the stages, in units of plain training's. Below 1 a stage pays.

    backward: score all, train on the backward gate's choice. forward: score the forward gate's
    choice, train on the backward gate's choice of those; one for each share to be scored.
    Infinite where unknown.
    """

    backward: float
    forward: list[float]


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
) -> Prices:
    """Replays the gates over known sizes and prices what they would do.

    For a pool of n: plain training costs n T and has the gradient variance sum(s^2) / n^2 (up to a
    constant). With probabilities q_i to be scored and p_i to be trained on once scored it costs
    sum(q) F + sum(q p) T and has the variance sum(s^2 / (q p)) / n^2.

    Args:
        size: float[n], sizes as they were revealed.
        predicted: float[n], what the predictor said of them; None or NaN where it said nothing.
        weights: float[n], how many examples each stands for; 1 by default.
        train: share of the stream trained on; None: what balances variance and cost, but no less
            than `least`.
        score: shares of the stream to consider for scoring.
        cost_ratio: F / T.
        floors: least probability at the forward and at the backward gate.
        audit: share that passes the forward gate whatever is predicted.
        least: share trained on at least, of each class.
        labels: int[n], the classes of the examples.
        pool: examples that the gates decide on at a time, in order; all at once by default. Sizes
            fall while a model learns, and what differs between pools is nothing that a gate can
            use.
    """
    s = np.asarray(size, dtype=np.float64)
    w = np.ones_like(s) if weights is None else np.asarray(weights, dtype=np.float64)
    unknown = [float("inf")] * len(score)
    plain = float((w * s * s).sum())
    if len(s) == 0 or plain <= 0:
        return Prices(float("inf"), unknown)
    cuts = [slice(i, i + pool) for i in range(0, len(s), pool)] if pool else [slice(None)]

    def cost_and_variance(q: Array, at: slice) -> Array:
        s_, w_ = s[at], w[at]
        q = np.maximum(q, 1e-12)  # without floor and audit something may never be scored
        total, scoring = float(w_.sum()), float((w_ * q).sum()) * cost_ratio
        if train is None:
            threshold = balanced_threshold(s_ / q, scoring, floors[1], w_ * q, least * total)
        else:
            threshold = solve_threshold(s_ / q, train * total, floors[1], w_ * q)
        bound: float | Array = threshold
        if train is None and least > 0 and labels is not None:
            starving = class_thresholds(s_ / q, labels[at], least, w_ * q, w_)
            bound = np.minimum(threshold, starving)
        p = inclusion(s_ / q, bound, floors[1])
        some = s_ > 0  # what has no gradient adds no variance, whatever its probability
        variance = float(((w_ * s_ * s_)[some] / (q * p)[some]).sum())
        return np.array([scoring + float((w_ * q * p).sum()), variance])

    def price(chances: Callable[[slice], Array]) -> float:
        cost, variance = np.sum([cost_and_variance(chances(at), at) for at in cuts], axis=0)
        return float(cost / w.sum() * variance / plain)

    backward = price(lambda at: np.ones_like(s[at]))
    if predicted is None:
        return Prices(backward, unknown)
    foreseen = np.asarray(predicted, dtype=np.float64)
    if not np.isfinite(foreseen).all():
        return Prices(backward, unknown)

    def passing(share: float, at: slice) -> Array:
        threshold = solve_threshold(foreseen[at], share * float(w[at].sum()), floors[0], w[at])
        return audit + (1 - audit) * inclusion(foreseen[at], threshold, floors[0])

    return Prices(backward, [price(partial(passing, share)) for share in score])
