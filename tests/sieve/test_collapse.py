"""A model that collapses is noticed, and the remedy is named."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.scoring.protocol import Scores
from tests.conftest import Bag, TableScorer, make_batches, train
from tests.stages.kit import feed


def collapse_run(method: fs.Method, lr: float) -> tuple[fs.Sieve, list[str]]:
    """A linear model on a task it can learn, driven by one method at a high learning rate."""
    model = Bag(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    sieve = fs.Sieve(
        model, method, total=24000, options=fs.SieveOptions(pool=100, group=2, batch_size=8)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(sieve, make_batches(24000), model, optimizer)
    return sieve, [str(w.message) for w in caught if w.category is fs.CollapseWarning]


def test_collapse_of_the_quantile_gate_is_noticed_and_the_remedy_named() -> None:
    _, warned = collapse_run(fs.methods.registry.build("quantile", train=0.1, warmup=0.3), lr=1.0)
    assert len(warned) == 1
    assert "collapsing" in warned[0]
    assert "threshold sampling" in warned[0]


def test_the_remedy_does_not_collapse() -> None:
    method = fs.methods.registry.build("finesieve", train=0.1, starts={2: 0.3}, predictor_bits=8)
    sieve, warned = collapse_run(method, lr=1.0)
    assert warned == []
    assert sieve.window.mean_loss() < 0.55


class Rising(TableScorer):
    """A model that gets worse and worse."""

    def __call__(self, batch: Any) -> Scores:
        scores = super().__call__(batch)
        factor = 1 + len(self.calls) / 100
        return Scores(scores.loss * factor, scores.size * factor)


@pytest.mark.parametrize("audit", [0.3, 0.0])
def test_collapse_is_noticed_in_stage_3_too_on_the_audited(audit: float) -> None:
    method = fs.methods.registry.build("paper", warmup=0.05, window=100, log_loss=9.0, audit=audit)
    sieve = fs.Sieve(scorer=Rising(), method=method, total=20000, options=fs.SieveOptions(pool=100))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        feed(sieve, make_batches(20000))
    assert sieve.stage == 3
    assert any(w.category is fs.CollapseWarning for w in caught) == (audit > 0)
