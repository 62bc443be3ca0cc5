"""Probabilities for every example from a head that was not fitted to it: k-fold, on features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.scoring.head_start import HeadFit
from finesieve.scoring.heads import SingleLabel
from finesieve.scoring.last_layer import LastLayer

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
STRENGTHS = (0.03, 0.003, 3e-4, 3e-5)
MOST = 20_000  # examples that one head is fitted to: more cost time and change little
_STEPS = 30  # of a fit: more take their time, and learn labels by heart
_JUDGED = 4_000  # examples by which the strength is chosen


def folds_of(labels: Ints, groups: Ints, folds: int, seed: int) -> Ints:
    """Deals examples into folds, class by class; all of a group into one.

    Copies of a text must share a fold: else the head has seen the very text it is asked about. Only
    where a class has fewer groups than there are folds are its rows dealt one by one: else no head
    that judges them would have seen the class.

    Args:
        labels: int64[n].
        groups: int64[n], equal where texts repeat.
        folds: how many.
        seed: of the order.

    Returns:
        int64[n], 0 to folds - 1.
    """
    alone = np.zeros(len(labels), dtype=bool)
    for one in np.unique(labels):
        rows = labels == one
        if len(np.unique(groups[rows])) < folds:
            alone |= rows
    groups = np.where(alone, -1 - np.arange(len(labels)), groups)
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng([seed, 81]).permutation(len(first))
    order = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    dealt = np.empty(len(first), dtype=np.int64)
    dealt[order] = np.arange(len(first)) % folds
    return dealt[place]


class _SoftmaxFit(HeadFit):
    """The fit of a layer that makes one row of logits an example, for a class each.

    The gradient is written out, which takes a third less time than automatic differentiation.
    """

    def _closure(
        self, data: LastLayer, strength: float | None, values: torch.Tensor
    ) -> Callable[[], torch.Tensor]:
        if strength is None:
            return super()._closure(data, strength, values)
        inputs, labels = data.inputs[:, 0], data.targets["labels"]
        here, gradient = torch.arange(len(inputs)), torch.empty_like(values)
        of_weight, of_bias = self._parts(gradient)
        assert of_bias is not None

        @torch.no_grad()
        def closure() -> torch.Tensor:
            values.grad = gradient
            weight, bias = self._parts(values)
            assert bias is not None
            logs = torch.addmm(bias, inputs, weight.t()).log_softmax(dim=1)
            loss = 0.5 * strength * weight.square().sum() - logs[here, labels].mean()
            off = logs.exp_()
            off[here, labels] -= 1.0
            off /= len(inputs)
            torch.mm(off.t(), inputs, out=of_weight).add_(weight, alpha=strength)
            torch.sum(off, dim=0, out=of_bias)
            return loss

        return closure


class Heads:
    """Heads for the same features and labels, fitted to parts of them.

    The fit is that of the head start: multinomial logistic regression by L-BFGS. Its strength is
    the one of `STRENGTHS` that does best on one half of some examples after fitting the other.
    """

    def __init__(
        self,
        features: Floats,
        labels: Ints,
        classes: int,
        seed: int = 0,
        among: Ints | None = None,
        strength: float | None = None,
    ) -> None:
        """Chooses the strength.

        Args:
            features: float32[n, d].
            labels: int64[n].
            classes: how many.
            seed: of the examples that heads are fitted to, where they are many.
            among: int64[m], places of the examples that have features; all by default.
            strength: if it is not to be chosen.
        """
        self._features, self._labels = features, labels
        self._classes, self._dice = classes, np.random.default_rng([seed, 82])
        self.among = np.arange(len(labels)) if among is None else among
        if strength is not None:
            self.strength = strength
            return
        some = self._some(self.among, _JUDGED)
        fit = self._fit(some)
        first, second = (torch.arange(start, len(some), 2) for start in (0, 1))
        losses = fit.path(first, second, STRENGTHS)
        self.strength = STRENGTHS[int(np.argmin(losses))]

    def _some(self, index: Ints, most: int) -> Ints:
        if len(index) <= most:
            return self._dice.permutation(index)
        return self._dice.choice(index, most, replace=False)

    def _fit(self, index: Ints) -> HeadFit:
        layer = nn.Linear(self._features.shape[1], self._classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        inputs = torch.from_numpy(self._features[index]).unsqueeze(1)
        targets = {"labels": torch.from_numpy(self._labels[index])}
        return _SoftmaxFit(
            LastLayer(layer, inputs, SingleLabel(), targets, (self._classes,)), _STEPS
        )

    def fitted(self, index: Ints) -> Callable[[Ints], Floats]:
        """Fits a head to these examples (to `MOST` of them, by chance, at the most).

        Args:
            index: int64[m], places.

        Returns:
            Probabilities, float32[j, classes], for places int64[j].
        """
        judge = self.head(index)
        return lambda places: judge(self._features[places])

    def head(self, index: Ints) -> Callable[[Floats], Floats]:
        """Returns what `fitted` does, as a function of features float32[j, d]."""
        some = self._some(index, MOST)
        fit = self._fit(some)
        fit.install(fit.solve(torch.arange(len(some)), self.strength))
        layer = fit.layer

        @torch.inference_mode()
        def probabilities(features: Floats) -> Floats:
            logits: torch.Tensor = layer(torch.from_numpy(features))
            return np.asarray(logits.softmax(dim=1))

        return probabilities

    def out_of_fold(self, fold: Ints) -> Floats:
        """Returns probabilities float32[n, classes], each from a head fitted to the other folds;
        zeros for examples without features.

        Args:
            fold: int64[n], as `folds_of` deals them.
        """
        out = np.zeros((len(fold), self._classes), dtype=np.float32)
        among, fold = self.among, fold[self.among]
        for number in np.unique(fold):
            inside = among[fold == number]
            out[inside] = self.fitted(among[fold != number])(inside)
        return out
