"""What a Lightning module trains on is the sieve's loss, or it is told."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import finesieve as fs
from tests.integrations.lightning.kit import QUIET, Classifier, loader, never, sieved, trainer

pytestmark = QUIET
SHORT = {"max_epochs": 1}


class Own(Classifier):
    """A training step that makes something else of its losses."""

    def __init__(self, callback: Any, kind: str) -> None:
        super().__init__(callback)
        self.kind = kind

    def training_step(self, batch: Any, index: int) -> Any:
        losses = self.losses(batch)
        if self.kind == "mean":
            return losses.mean()
        loss = self.sieved.loss(losses, batch)
        if self.kind == "none":
            return None
        if self.kind == "a term besides":
            return {"loss": loss + 0.01 * losses.square().mean()}
        return loss * (1.5 if self.kind == "scaled" else 1.0)


def fit(folder: Path, kind: str, **args: Any) -> list[str]:
    callback = sieved(never())
    module = Own(callback, kind)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(folder, callback, **SHORT, **args).fit(module, callback(loader()))
    return [str(w.message) for w in told if issubclass(w.category, fs.errors.FinesieveWarning)]


def test_a_training_step_without_the_sieves_loss_is_refused_at_the_first_batch(
    tmp_path: Path,
) -> None:
    with pytest.raises(fs.ConfigError, match=r"training_step did not call sieved\.loss"):
        fit(tmp_path, "mean")


@pytest.mark.parametrize("kind", ["a term besides", "scaled"])
def test_another_loss_than_the_sieves_is_told_of_once(tmp_path: Path, kind: str) -> None:
    (told,) = fit(tmp_path, kind)
    assert "training_step returned another loss than sieved.loss" in told


@pytest.mark.parametrize(
    ("kind", "args"), [("plain", {}), ("plain", {"accumulate_grad_batches": 3}), ("none", {})]
)
def test_the_sieves_loss_is_not_told_of(tmp_path: Path, kind: str, args: dict[str, Any]) -> None:
    """Nor a step that is skipped."""
    assert fit(tmp_path, kind, **args) == []
