"""What a policy is shown in a test that is about a part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import finesieve as fs
from finesieve.costs.meter import COST_RATIO, SURVIVOR, Work
from finesieve.gates.protocol import Limits
from finesieve.stages.policy import GateLimits, View
from finesieve.stages.window import Window

NO_LIMITS = GateLimits(Limits(), Limits(), Limits())


def limits(**gates: Limits) -> GateLimits:
    """Of the gates that are named; the others have none."""
    return replace(NO_LIMITS, **gates)


def view(stage: int, share: float, since: int, window: Window, **more: Any) -> View:
    """A first pass at the usual costs, with gates of no limits, before any work was done."""
    usual = {"passes": 0, "costs": (COST_RATIO, SURVIVOR), "work": Work(), "limits": NO_LIMITS}
    return View(stage, share, since, window=window, **{**usual, **more})


def feed(sieve: fs.Sieve, batches: Any) -> None:
    """Return losses that equal the size that TableScorer would give."""
    for batch in sieve(batches):
        losses = (batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2
        sieve.loss(losses.requires_grad_(), batch)
