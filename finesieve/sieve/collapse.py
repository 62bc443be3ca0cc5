"""Noticing that an unweighted gate ruins the model, while it happens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.errors import CollapseWarning
from finesieve.gates.protocol import State

REMEDY = (
    "an unweighted gate chooses the examples, and the easy ones that anchor the model are not "
    "trained on any more. Use threshold sampling (method 'finesieve'), which weighs what it "
    "keeps, or let more through, or a longer warm-up"
)


class CollapseWatch:
    """Compares the loss on a fair sample of the stream with what it was when the gate closed.

    A model in training gets better on unseen examples. If its mean loss over the last `sample`
    of them is `factor` times the one at the closing, or more, it has collapsed: warn once.
    """

    def __init__(self, sample: int = 512, factor: float = 1.25) -> None:
        self._sample, self._factor = sample, factor
        self._recent: npt.NDArray[np.float64] = np.empty(0)
        self._baseline: float | None = None
        self.warned = False

    def closed(self, loss: float) -> None:
        """Takes the mean loss at which the gate closes now as what later ones are held against."""
        self._baseline = loss if np.isfinite(loss) else None
        self._recent = np.empty(0)

    def feed(self, losses: npt.ArrayLike) -> None:
        """Takes in losses of a fair sample of the stream, scored before they could be trained on;
        warns once if they have become too high."""
        values = np.asarray(losses, dtype=np.float64)
        self._recent = np.concatenate((self._recent, values))[-self._sample :]
        if self.warned or len(self._recent) < self._sample:
            return
        if self._baseline is None:  # closed from the start: the first full sample is the measure
            self._baseline = float(self._recent.mean())
        now = float(self._recent.mean())
        if now > self._factor * self._baseline:
            self.warned = True
            warnings.warn(
                f"the model is collapsing: its mean loss on unseen examples is {now:.3f}, and was "
                f"{self._baseline:.3f} when the backward gate closed. Likely cause: {REMEDY}",
                CollapseWarning,
                stacklevel=2,
            )

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "recent": torch.from_numpy(self._recent.copy()),
            "baseline": self._baseline,
            "warned": self.warned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._recent = state["recent"].numpy().copy()
        self._baseline, self.warned = state["baseline"], state["warned"]
