"""What `report_to` reports to gets stage, rates and savings, through the Trainer's own logging."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from finesieve.integrations.transformers import attach as hf
from tests.integrations.transformers.kit import trainer
from tests.tiny import OPTIONS, closed

FIGURES = {"sieve_stage", "sieve_trained", "sieve_scored", "sieve_saved"}


def reported(folder: Path, to: str) -> list[dict[str, Any]]:
    """Train, reporting there; what the trainer logged while it trained."""
    host = trainer(folder, report_to=to, run_name="sieved")
    attached = hf.attach(host, closed(), **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    logs = [h for h in host.state.log_history if "sieve_stage" in h]
    assert len(logs) > 3
    assert {h["sieve_stage"] for h in logs} >= {1, 3}
    return logs


def expected(logs: list[dict[str, Any]], figure: str) -> list[tuple[int, float]]:
    return [(h["step"], pytest.approx(h[figure], rel=1e-5)) for h in logs]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    logs = reported(tmp_path, "tensorboard")
    written = [p for p in tmp_path.rglob("events.out.tfevents.*") if p.stat().st_size]
    assert len(written) == 1
    board = files.EventAccumulator(str(written[0]))
    board.Reload()
    for figure in FIGURES:
        found = [(e.step, e.value) for e in board.Scalars(f"train/{figure}")]
        assert found == expected(logs, figure)


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.chdir(tmp_path)
    logs = reported(tmp_path, "mlflow")
    mlflow.end_run()
    client = mlflow.MlflowClient(place)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    for figure in FIGURES:
        history = client.get_metric_history(run.info.run_id, figure)
        found = sorted((m.step, m.value) for m in history)
        assert found == expected(logs, figure)


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: into a file of its own format, whose last values are its summary."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logs = reported(tmp_path, "wandb")
    summary = dict(wandb.run.summary)
    wandb.finish()
    for figure in FIGURES:
        assert summary[f"train/{figure}"] == pytest.approx(logs[-1][figure], rel=1e-5)


def test_the_progress_bar_ends_with_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half batches could be twice as many steps; the trainer's own bar would stop at the half."""
    host = trainer(tmp_path, disable_tqdm=False, num_train_epochs=1, logging_strategy="no")
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    steps = host.state.global_step
    assert steps < 38  # of twice as many batches of 8 as 300 examples make, two a step
    shown = re.findall(r"(\d+)%.*? (\d+)/(\d+) ", capsys.readouterr().err)
    assert shown[-1] == ("100", str(steps), str(steps))
