"""What the last revealed examples say: their losses and sizes, the quality of the predictor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.errors import ConfigError
from finesieve.gates.protocol import BoolArray, Offer, State

Array = npt.NDArray[np.float64]
_COLUMNS = ("loss", "size", "predicted", "probability", "keep", "audited", "label")
_UNKNOWN = (np.nan, np.nan, np.nan, 1.0, np.nan, np.nan, 0.0)  # what stands there for None


def auc(score: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Returns the weighted area under the ROC curve (ties count half); NaN if only one class is
    there.

    Args:
        score: float[n].
        positive: bool[n].
        weights: float[n].
    """
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

    Args:
        revealed: how many there ever were.
        memo: what a policy found of some of them, by their numbers.
    """

    def __init__(self, length: int = 2048) -> None:
        if length < 2:
            raise ConfigError(f"window is {length}; expected at least 2 examples")
        self.length = length
        # Twice as long as what is remembered, so that it is moved to the front but seldom.
        self._table = np.empty((len(_COLUMNS), 2 * length), dtype=np.float64)
        self._end = 0  # columns of the table that are filled
        self.revealed = 0
        self.memo: dict[Any, Array] = {}

    def add(self, offer: Offer, audited: BoolArray | None = None) -> None:
        """Take in an offer with loss and size; what is unknown is NaN, the probability 1, the label
        0.

        Args:
            audited: bool[n], which of them the audit let through.
        """
        label = None if offer.features is None else offer.features.cross
        known = offer.loss, offer.size, offer.predicted, offer.probability, offer.keep
        n = min(offer.n, self.length)
        if self._end + n > 2 * self.length:
            kept = self.length - n
            self._table[:, :kept] = self._table[:, self._end - kept : self._end]
            self._end = kept
        new = self._table[:, self._end : self._end + n]
        for row, value, unknown in zip(new, (*known, audited, label), _UNKNOWN, strict=True):
            row[:] = unknown if value is None else value[-n:]
        self._end += n
        self.revealed += offer.n

    def __len__(self) -> int:
        return min(self._end, self.length)

    def column(self, name: str) -> Array:
        """Returns one value for each remembered example, oldest first, float64[len(self)].

        Args:
            name: "loss", "size", "predicted", "probability", "keep", "audited" or "label".
        """
        return self._table[_COLUMNS.index(name), self._end - len(self) : self._end]

    @property
    def weights(self) -> Array:
        """Returns 1 / probability of having been revealed, float64[len(self)]."""
        return 1.0 / self.column("probability")

    def mean_loss(self, last: int | None = None) -> float:
        """Returns the weighted mean loss of the `last` examples, of all by default: an estimate for
        the whole stream. NaN if there are none."""
        loss, w = self.column("loss"), self.weights
        if last is not None:
            loss, w = loss[-last:], w[-last:]
        return float((loss * w).sum() / w.sum()) if len(loss) else float("nan")

    def concentration(self) -> float:
        """Returns (mean size)^2 / mean(size^2): 1 if all sizes are equal, near 0 if a few carry
        all."""
        s, w = self.column("size"), self.weights
        square = float((w * s * s).sum() / w.sum()) if len(s) else 0.0
        return float((w * s).sum() / w.sum()) ** 2 / square if square > 0 else float("nan")

    def auc(self) -> float:
        """Returns how well the predictor told sizes above the mean from those below, each judged
        before it was learned; NaN if it never predicted."""
        s, w, p = self.column("size"), self.weights, self.column("predicted")
        known = np.isfinite(p)
        if not known.any():
            return float("nan")
        s, w, p = s[known], w[known], p[known]
        return auc(p, s > (w * s).sum() / w.sum(), w)

    def calibration(self) -> float:
        """Returns the mean predicted size over the mean size, each judged before it was learned; 1
        is right."""
        s, w, p = self.column("size"), self.weights, self.column("predicted")
        known = np.isfinite(p)
        mean = float((w * s)[known].sum())
        return float((w * p)[known].sum()) / mean if mean > 0 else float("nan")

    def audit(self) -> float:
        """Returns what `calibration` does, over the audited alone: a fair sample, whatever the
        predictor let through. NaN before there is one."""
        chosen = (self.column("audited") == 1) & np.isfinite(self.column("predicted"))
        found = float(self.column("size")[chosen].sum())
        return float(self.column("predicted")[chosen].sum()) / found if found > 0 else float("nan")

    def log_loss(self) -> float:
        """Returns the mean log-loss, in nats, of predicted chances against the backward gate's
        verdicts; infinite before there are any."""
        p, y = self.column("predicted"), self.column("keep")
        known = np.isfinite(p) & np.isfinite(y)
        if not known.any():
            return float("inf")
        p = np.clip(p[known], 1e-15, 1 - 1e-15)
        return float(-np.where(y[known] > 0, np.log(p), np.log1p(-p)).mean())

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        data = {name: torch.from_numpy(self.column(name).copy()) for name in _COLUMNS}
        return {"data": data, "revealed": self.revealed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.memo.clear()
        self._end = len(state["data"]["loss"])
        for row, name in zip(self._table, _COLUMNS, strict=True):
            row[: self._end] = state["data"][name].numpy()
        self.revealed = state["revealed"]
