"""Prices of stages: by hand. Those by simulation are with the gates' own tests."""

from __future__ import annotations

import numpy as np
import pytest

import finesieve as fs


def test_prices_count_the_audit_and_zero_sizes() -> None:
    dice = np.random.default_rng(0)
    s = dice.lognormal(-1, 1, 300)
    kind = {"train": 0.2, "score": [0.4], "cost_ratio": 0.3, "floors": (0.1, 0.05)}
    never, always = (
        fs.stages.prices.stage_prices(s, s[::-1], None, audit=a, **kind) for a in (0.0, 1.0)
    )
    assert always.forward == pytest.approx([always.backward])  # all audited: nothing is skipped
    assert never.forward != pytest.approx(always.forward, rel=0.01)
    s[:20] = 0.0
    none = fs.stages.prices.stage_prices(s, s, None, **{**kind, "floors": (0.0, 0.0)})
    assert np.isfinite(none.backward)
