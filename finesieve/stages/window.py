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
        """Take in an offer with loss and size; what is unknown is NaN, the probability 1, the
        label 0.

        audited: bool[n], which of them the audit let through.
        """
        n = offer.n
        for name in _COLUMNS:
            value: Any = audited if name == "audited" else getattr(offer, name, None)
            if name == "label" and offer.features is not None:
                value = offer.features.cross
            if value is None:
                value = np.full(n, {"probability": 1.0, "label": 0.0}.get(name, np.nan))
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
