"""What the last revealed examples say: prices of the stages, quality of the predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.errors import ConfigError
from finesieve.gates.protocol import BoolArray, Offer, State
from finesieve.gates.sampling import balanced_threshold, inclusion, solve_threshold

Array = npt.NDArray[np.float64]
_COLUMNS = ("loss", "size", "predicted", "probability", "keep", "audited")


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
    pool: int | None = None,
) -> Prices:
    """Replay the gates over known sizes and price what they would do.

    For a pool of n: plain training costs n T and has the gradient variance sum(s^2) / n^2 (up to
    a constant). With probabilities q_i to be scored and p_i to be trained on once scored it costs
    sum(q) F + sum(q p) T and has the variance sum(s^2 / (q p)) / n^2.

    size, predicted: [n]. weights: [n], how many examples each stands for. train: share of the
    stream trained on; None: what balances variance and cost, but no less than `least`. score:
    shares of the stream to consider for scoring. cost_ratio: F / T. floors: least probability at
    the (forward, backward) gate. pool: examples that the gates decide on at a time, in order: sizes
    fall while a model learns, and what differs between pools is nothing that a gate can use; all
    at once by default.
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
        p = inclusion(s_ / q, threshold, floors[1])
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


def auc(score: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Weighted area under the ROC curve (ties count half); NaN if only one class is there."""
    s = np.asarray(score, dtype=np.float64)
    y = np.asarray(positive, dtype=np.bool_)
    w = np.asarray(weights, dtype=np.float64)
    up, down = float(w[y].sum()), float(w[~y].sum())
    if up == 0 or down == 0:
        return float("nan")
    values, place = np.unique(s, return_inverse=True)
    ups = np.bincount(place, weights=w * y, minlength=len(values))
    downs = np.bincount(place, weights=w * ~y, minlength=len(values))
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / (up * down))


class Window:
    """The last `length` examples whose loss was revealed, with what had been foreseen of them.

    Each weighs 1 / probability of having been revealed, so that the window speaks for the whole
    stream also in stage 3.
    """

    def __init__(self, length: int = 2048) -> None:
        if length < 2:
            raise ConfigError(f"window is {length}; expected at least 2 examples")
        self.length = length
        self._data = {name: np.empty(0, dtype=np.float64) for name in _COLUMNS}
        self.revealed = 0

    def add(self, offer: Offer, audited: BoolArray | None = None) -> None:
        """Take in an offer with loss and size; what is unknown is NaN, the probability 1.

        audited: bool[n], which of them the audit let through.
        """
        n = offer.n
        for name in _COLUMNS:
            value = audited if name == "audited" else getattr(offer, name)
            if value is None:
                value = np.full(n, 1.0 if name == "probability" else np.nan)
            joined = np.concatenate((self._data[name], np.asarray(value, dtype=np.float64)))
            self._data[name] = joined[-self.length :]
        self.revealed += n

    def __len__(self) -> int:
        return len(self._data["loss"])

    def column(self, name: str) -> Array:
        """float64[len(self)]: loss, size, predicted, probability, keep or audited."""
        return self._data[name]

    @property
    def weights(self) -> Array:
        return 1.0 / self._data["probability"]

    def mean_loss(self, last: int | None = None) -> float:
        """Weighted mean loss of the `last` examples, an estimate for the whole stream."""
        loss, w = self._data["loss"], self.weights
        if last is not None:
            loss, w = loss[-last:], w[-last:]
        return float((loss * w).sum() / w.sum()) if len(loss) else float("nan")

    def concentration(self) -> float:
        """(mean size)^2 / mean(size^2): 1 if all sizes are equal, near 0 if a few carry all."""
        s, w = self._data["size"], self.weights
        square = float((w * s * s).sum() / w.sum()) if len(s) else 0.0
        return float((w * s).sum() / w.sum()) ** 2 / square if square > 0 else float("nan")

    def auc(self) -> float:
        """How well the predictor told sizes above the mean from those below (progressive)."""
        s, w, p = self._data["size"], self.weights, self._data["predicted"]
        known = np.isfinite(p)
        if not known.any():
            return float("nan")
        s, w, p = s[known], w[known], p[known]
        return auc(p, s > (w * s).sum() / w.sum(), w)

    def calibration(self) -> float:
        """Mean predicted size over mean size (progressive); 1 is right."""
        s, w, p = self._data["size"], self.weights, self._data["predicted"]
        known = np.isfinite(p)
        mean = float((w * s)[known].sum())
        return float((w * p)[known].sum()) / mean if mean > 0 else float("nan")

    def audit(self) -> float:
        """As `calibration`, over the audited alone: a fair sample, whatever the predictor let
        through. NaN before there is one."""
        chosen = (self._data["audited"] == 1) & np.isfinite(self._data["predicted"])
        found = float(self._data["size"][chosen].sum())
        return float(self._data["predicted"][chosen].sum()) / found if found > 0 else float("nan")

    def log_loss(self) -> float:
        """Mean log-loss of predicted chances against the backward gate's verdicts."""
        p, y = self._data["predicted"], self._data["keep"]
        known = np.isfinite(p) & np.isfinite(y)
        if not known.any():
            return float("inf")
        p = np.clip(p[known], 1e-15, 1 - 1e-15)
        return float(-np.where(y[known] > 0, np.log(p), np.log1p(-p)).mean())

    def state_dict(self) -> State:
        data = {k: torch.from_numpy(v.copy()) for k, v in self._data.items()}
        return {"data": data, "revealed": self.revealed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._data = {k: v.numpy().copy() for k, v in state["data"].items()}
        self.revealed = state["revealed"]
