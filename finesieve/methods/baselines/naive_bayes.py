"""Naive Bayes, the predictor of Ouyang et al. 2023, learned online."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.errors import ConfigError
from finesieve.gates.predictor import Predictor
from finesieve.gates.protocol import Features, FloatArray, Offer, State


class NaiveBayes(Predictor):
    """The paper's predictor: Bernoulli naive Bayes on the presence of token ids, without the label.

    It predicts the chance that the backward gate would keep the example, and learns its verdicts.
    As scikit-learn's BernoulliNB with partial_fit: Laplace smoothing `alpha`, prior from counts,
    absent tokens count as evidence too.

    Args:
        vocabulary: number of ids told apart; larger ids share a place (modulo).
        alpha: of the smoothing, above 0.
        absent: whether absent tokens count. With tens of thousands of them and verdicts of unequal
            frequency their small evidences add up to a large one for the more frequent verdict,
            until many thousands of examples were learned.
    """

    def __init__(self, vocabulary: int = 32768, alpha: float = 1.0, absent: bool = True) -> None:
        if not 2 <= vocabulary <= 1 << 24 or alpha <= 0:
            raise ConfigError(
                f"vocabulary={vocabulary}, alpha={alpha}; expected 2 to {1 << 24} ids and alpha > 0"
            )
        self.vocabulary, self.alpha, self.absent = vocabulary, alpha, absent
        self._counts = np.zeros((2, vocabulary), dtype=np.float64)
        self._classes = np.zeros(2, dtype=np.float64)

    @property
    def bytes(self) -> int:
        """Memory of the counts, in bytes: fixed at construction."""
        return self._counts.nbytes

    def _present(self, features: Features) -> npt.NDArray[np.int64]:
        """Returns the token ids of each example, each once and the rest -1, int64[n, m]."""
        ids = np.where(features.tokens < 0, -1, features.tokens % self.vocabulary)
        ids.sort(axis=1)
        ids[:, 1:][ids[:, 1:] == ids[:, :-1]] = -1
        return ids

    def predict(self, offer: Offer) -> FloatArray:
        """Returns the chance that the backward gate keeps each example, float32[n]; 1 until both
        verdicts were seen.

        Raises:
            GateError: for an offer without features.
        """
        ids = self._present(offer.need("features", self))
        if self._classes.min() == 0:  # one class unseen: nothing can be told, let all through
            return np.ones(len(ids), dtype=np.float32)
        p = (self._counts + self.alpha) / (self._classes[:, None] + 2 * self.alpha)
        absent = np.log1p(-p)
        odds = np.log(p[1]) - np.log(p[0])
        base = np.log(self._classes[1] / self._classes[0])
        if self.absent:
            odds -= absent[1] - absent[0]
            base += absent[1].sum() - absent[0].sum()
        z = base + np.where(ids >= 0, odds[ids], 0.0).sum(axis=1)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -500, 500))), dtype=np.float32)

    def learn(self, offer: Offer) -> None:
        """Counts the tokens of examples on which the backward gate has a verdict; in stage 1 there
        is none."""
        if offer.keep is None:  # stage 1: the gate is open, there is no verdict to learn
            return
        ids = self._present(offer.need("features", self))
        for verdict in (0, 1):
            chosen = ids[offer.keep == bool(verdict)]
            self._classes[verdict] += len(chosen)
            np.add.at(self._counts[verdict], chosen[chosen >= 0], 1.0)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "counts": torch.from_numpy(self._counts.copy()),
            "classes": torch.from_numpy(self._classes.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._counts = state["counts"].numpy().copy()
        self._classes = state["classes"].numpy().copy()
