"""A last layer to fit: of a small model, and of classes that follow from its features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finesieve import heads, scores
from finesieve.scoring.last_layer import LastLayer


class Given(nn.Module):
    """A body that changes nothing yet, and a linear head with random weights."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, out, bias=bias)
        nn.init.eye_(self.body.weight)
        nn.init.zeros_(self.body.bias)

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.body(x)))


def layer(out: int = 3, n: int = 200, seed: int = 0, bias: bool = True) -> tuple[Given, LastLayer]:
    """Classes that follow from noisy features, whose mean and scale are far from 0 and 1."""
    dice = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, out, (n,), generator=dice)
    x = 3.0 * F.one_hot(labels, 12).float() + torch.randn(n, 12, generator=dice)
    model = Given(12, out, bias)
    batch = {"x": 5.0 + 0.1 * x, "labels": labels}
    found = scores.Task(model, heads.SingleLabel()).last_layer(batch)
    assert found is not None
    return model, found
