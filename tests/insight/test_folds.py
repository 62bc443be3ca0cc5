"""The written-out gradient of the heads is that of automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from finesieve.insight import folds
from finesieve.insight.folds import STRENGTHS, Heads, folds_of
from finesieve.scoring.head_start import HeadFit
from finesieve.scoring.heads import SingleLabel
from finesieve.scoring.last_layer import LastLayer
from tests.insight.test_labels import CLASSES, clusters


def fits() -> tuple[HeadFit, HeadFit]:
    features, labels, _ = clusters(300, 2.0, 0.1)
    layer = nn.Linear(8, CLASSES)
    inputs, targets = torch.from_numpy(features).unsqueeze(1), {"labels": torch.from_numpy(labels)}
    found = LastLayer(layer, inputs, SingleLabel(), targets, (CLASSES,))
    return folds._SoftmaxFit(found), HeadFit(found)


@pytest.mark.parametrize("strength", [0.3, 3e-5])
def test_the_gradient_is_that_of_the_loss(strength: float) -> None:
    written, automatic = fits()
    values = torch.linspace(-1.0, 1.0, 9 * CLASSES, requires_grad=True)
    losses, gradients = [], []
    for fit in (written, automatic):
        losses.append(float(fit._closure(fit._data, strength, values)().detach()))
        assert values.grad is not None
        gradients.append(values.grad.clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


def test_the_path_of_strengths_is_what_the_head_start_judges_by() -> None:
    halves = torch.arange(0, 300, 2), torch.arange(1, 300, 2)
    written, automatic = fits()
    losses = automatic.judge(*halves, STRENGTHS)[-len(STRENGTHS) :]
    assert written.path(*halves, STRENGTHS) == pytest.approx(losses, rel=1e-3)
    assert max(losses) > min(losses) + 1e-3


def test_probabilities_are_those_of_the_plain_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, _ = clusters(600, 2.0, 0.1)
    fold = folds_of(labels, np.arange(600), 5, 0)
    found = []
    for fit in (folds._SoftmaxFit, HeadFit):
        monkeypatch.setattr(folds, "_SoftmaxFit", fit)
        found.append(Heads(features, labels, CLASSES).out_of_fold(fold))
    assert np.abs(found[0] - found[1]).max() < 0.01
