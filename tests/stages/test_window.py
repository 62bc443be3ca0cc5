"""The window: what the last revealed examples say about the stream and the predictor."""

from __future__ import annotations

import numpy as np
import pytest

import finesieve as fs
from finesieve.stages.window import Window


def test_window_speaks_for_the_stream_also_in_stage_3() -> None:
    dice = np.random.default_rng(0)
    size = dice.lognormal(0, 1, 40000)
    q = np.clip(size / 4, 0.1, 1)
    kept = dice.random(len(q)) < q
    window = Window(100000)
    window.add(
        fs.Offer(
            np.arange(kept.sum()),
            loss=size[kept],
            size=size[kept],
            probability=q[kept],
            predicted=size[kept],
        )
    )
    assert window.mean_loss() == pytest.approx(size.mean(), rel=0.05)
    expected = size.mean() ** 2 / (size**2).mean()
    assert window.concentration() == pytest.approx(expected, rel=0.1)
    assert window.calibration() == pytest.approx(1.0)
    assert window.auc() == pytest.approx(1.0)


def test_the_audit_is_judged_apart() -> None:
    window = Window(100)
    assert np.isnan(window.audit())
    size = np.asarray([1.0, 1.0, 2.0, 2.0], np.float32)
    foreseen = np.asarray([0.5, 0.5, 2.0, 2.0], np.float32)
    offer = fs.Offer(np.arange(4), loss=size, size=size, predicted=foreseen)
    window.add(offer)
    assert np.isnan(window.audit())
    window.add(offer, np.asarray([True, True, False, False]))
    assert window.audit() == pytest.approx(0.5)
    assert window.calibration() == pytest.approx(5 / 6)


def test_what_is_not_known_is_marked_and_only_the_last_are_kept() -> None:
    window = Window(4)
    size = np.arange(6, dtype=np.float32)
    window.add(fs.Offer(np.arange(6), loss=size, size=2 * size))
    assert (len(window), window.revealed) == (4, 6)
    assert window.column("loss").tolist() == [2.0, 3.0, 4.0, 5.0]
    assert window.column("size").tolist() == [4.0, 6.0, 8.0, 10.0]
    assert window.column("probability").tolist() == [1.0] * 4
    assert window.column("label").tolist() == [0.0] * 4
    for name in ("predicted", "keep", "audited"):
        assert np.isnan(window.column(name)).all()
