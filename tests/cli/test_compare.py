"""What the table says of its numbers, and how times are made equal."""

from __future__ import annotations

from typing import Any

import pytest

from finesieve.cli.comparing.compare import EQUAL, seconds_per_example, table
from finesieve.cli.config import Config


def summary(name: str, loss: float, seconds: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    trained = more.pop("trained", 1000)
    stages = [{"stage": s} for s in more.pop("stages", (1, 2, 3))]
    return {
        "name": name, "method": name.split()[0], "seed": seed, "stages": stages,
        "eval": {"accuracy": 1 - loss, "loss": loss, "n": 500},
        "examples": {"drawn": 1000, "trained": trained, "scored": 0},
        "seconds": {"total": seconds, "train": seconds * 0.9},
        "config": {"lr": more.pop("lr", 1e-4)},
    }


def text(*runs: dict[str, Any]) -> str:
    return table(list(runs), Config(train="t.csv"))


def test_a_gain_is_called_better_and_a_loss_no_gain() -> None:
    full = summary("full", 0.2, 100)
    assert "0.250, random 0.300: better." in text(
        full, summary("finesieve", 0.25, 50), summary(EQUAL, 0.3, 50))
    assert "0.300, random 0.250: no gain here." in text(
        full, summary("finesieve", 0.3, 50), summary(EQUAL, 0.25, 50))


def test_unequal_times_open_gates_and_few_seeds_are_said() -> None:
    out = text(summary("finesieve", 0.2, 50, stages=(1,)), summary(EQUAL, 0.3, 60))
    assert "random took 1.20 times finesieve's time" in out
    assert "gates stayed open" in out
    assert "Fewer than 3 seeds" in out
    equal = text(*(summary(n, 0.2, 50, seed=s) for s in range(3) for n in ("finesieve", EQUAL)))
    assert "Caution" not in equal
    assert "Fewer than 3 seeds" not in equal
    assert "± 0.000" in equal


def test_speed_up_is_over_full_training() -> None:
    out = text(summary("full", 0.2, 100), summary("finesieve", 0.2, 40, trained=250))
    assert "| finesieve | 0.800 | 0.200 | 40.0 | 2.5x | 25% | 0% |" in out
    assert "| finesieve | 0.800 | 0.200 | 40.0 | - | 25% | 0% |" in text(
        summary("finesieve", 0.2, 40, trained=250))


def test_seconds_an_example_come_from_the_run_that_trained_most() -> None:
    runs = [summary("finesieve", 0.2, 50, trained=200), summary("full", 0.2, 100)]
    assert seconds_per_example(runs, 0) == pytest.approx(90 / 1000)
