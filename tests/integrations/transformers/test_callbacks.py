"""What callbacks of the user's own see of a Trainer with a sieve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from transformers import TrainerCallback

from finesieve.integrations.transformers import attach as hf
from tests.integrations.transformers.kit import OPTIONS, closed, trainer


class Sees(TrainerCallback):
    """Notes epochs, and the files of a checkpoint, where a user's callback would read them."""

    def __init__(self) -> None:
        self.after_steps: list[float] = []
        self.after_passes: list[float] = []
        self.saved: set[str] = set()
        self.evaluates = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after_steps.append(state.epoch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after_passes.append(state.epoch)
        control.should_evaluate |= self.evaluates

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.saved = {path.name for path in folder.iterdir()}


def test_a_callback_that_was_there_before_sees_epochs_and_whole_checkpoints(tmp_path: Path) -> None:
    seen = Sees()
    host = trainer(tmp_path, callbacks=[seen], num_train_epochs=3, save_strategy="epoch")
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    assert seen.after_passes == [1.0, 2.0, 3.0]  # exactly: people compare them, or cut to an int
    assert host.state.epoch == 3.0
    assert "finesieve-rank0.pt" in seen.saved


def test_epochs_with_open_gates_are_those_of_plain_training(tmp_path: Path) -> None:
    runs = []
    for sieved in (False, True):
        seen = Sees()
        host = trainer(tmp_path, callbacks=[seen], gradient_accumulation_steps=1)
        if sieved:
            hf.attach(host, closed(starts={}), **OPTIONS)
        host.train()
        runs.append(seen)
    plain, own = runs
    assert own.after_passes == plain.after_passes
    assert own.after_steps == pytest.approx(plain.after_steps, abs=0.02)  # 300 is no 38 x 8


def test_an_evaluation_that_a_callback_asked_for_is_made(tmp_path: Path) -> None:
    seen = Sees()
    seen.evaluates = True
    more = {"eval_strategy": "steps", "eval_steps": 1000, "eval_delay": 1000}
    host = trainer(tmp_path, callbacks=[seen], **more)
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    at = [h["step"] for h in host.state.log_history if "eval_loss" in h]
    assert len(at) == 2
    assert at[-1] == host.state.global_step
