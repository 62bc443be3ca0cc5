"""A run of the command line: what it leaves behind, and how it goes on after an interruption."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.training.models import load_model
from finesieve.cli.training.train import Run
from tests.conftest import BY_HAND, THREADS, arguments


def test_summary_has_what_it_must(finished: Path) -> None:
    s = json.loads((finished / "summary.json").read_text())
    assert s["method"] == "finesieve"
    assert s["seed"] == 0
    e = s["examples"]
    assert e["drawn"] == 480 > e["scored"] > 0
    assert e["trained"] < 480
    assert s["tokens"]["trained"] > 0 < s["tokens"]["scored"]
    parts = sum(s["seconds"][k] for k in ("decide", "score", "train", "data"))
    assert parts == pytest.approx(s["seconds"]["total"], rel=0.1)  # the model is tiny
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    assert all(m["reason"] and m["from_example"] >= 0 for m in s["stages"])
    assert s["eval"]["n"] == 120
    assert 0.5 < s["eval"]["accuracy"] < 1
    assert torch.__version__.startswith(s["versions"]["torch"])  # which may go on with +cu124
    assert s["config"]["settings"]["predictor_bits"] == 12


def test_examples_tell_every_examples_fate(finished: Path) -> None:
    table = pq.read_table(finished / "examples.parquet")
    assert table.num_rows == 480
    assert sorted(table["row"].to_pylist()) == list(range(480))
    s = json.loads((finished / "summary.json").read_text())
    fate = table["verdict"].to_pylist()
    assert fate.count("trained") == s["examples"]["trained"]
    rows = table.to_pylist()
    scored = [r for r in rows if r["stage"] > 1 and r["verdict"] != "skipped-forward"]
    assert len(scored) == s["examples"]["scored"]
    for r in rows:
        assert (r["weight"] > 0) == (r["verdict"] == "trained")
        assert (r["loss"] is None) == (r["verdict"] == "skipped-forward")
        if r["stage"] > 1:
            assert r["predicted"] > 0


def test_log_is_json_lines(finished: Path) -> None:
    events = [json.loads(line) for line in (finished / "run.jsonl").read_text().splitlines()]
    kinds = [e["event"] for e in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("stage") == 3


def test_the_model_loads_with_from_pretrained(finished: Path, files: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    model = AutoModelForSequenceClassification.from_pretrained(finished / "model").eval()
    table = load(str(files / "eval.jsonl"))
    batch = tokenizer(
        table.texts, truncation=True, max_length=16, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        best = model(**batch).logits.argmax(-1)
    right = [model.config.id2label[int(i)] == y for i, y in zip(best, table.labels, strict=True)]
    s = json.loads((finished / "summary.json").read_text())
    assert sum(right) / 120 == pytest.approx(s["eval"]["accuracy"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    finished: Path,
    files: Path,
    tmp_path: Path,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal comes in stage 2: mid-run, survivors held."""
    output = tmp_path / "cut"
    command = arguments(files, output, *BY_HAND)
    step, steps = Run._step, itertools.count(1)

    def stopped(run: Run, batch: Any) -> None:
        step(run, batch)
        if next(steps) == 12:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "_step", stopped)
    assert main(command) == 128 + number
    assert "Go on with:\n  finesieve train" in capsys.readouterr().err
    assert (output / "checkpoint.pt").exists()
    assert not (output / "summary.json").exists()

    assert main(command) == 2  # not over an unfinished run
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--seed", "5", "--resume"]) == 2
    assert "another configuration (seed: 0 then, 5 now)" in capsys.readouterr().err

    assert main([*command, "--resume"]) == 0
    one = torch.nn.Module.state_dict(load_model(str(finished / "model"), ["sympy", "torch"], 0))
    two = torch.nn.Module.state_dict(load_model(str(output / "model"), ["sympy", "torch"], 0))
    assert all(torch.equal(one[k], two[k]) for k in one)
    a = pq.read_table(finished / "examples.parquet")
    assert a.equals(pq.read_table(output / "examples.parquet"))
    assert not (output / "checkpoint.pt").exists()
    assert main([*command, "--resume"]) == 2
    assert "the run in it is complete" in capsys.readouterr().err


def test_compare_prints_one_table(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    methods = ["--methods", "full,paper,finesieve"]
    command = arguments(files, output, *methods, command="compare")
    assert main(command) == 0
    out = capsys.readouterr().out
    for name in ("full", "paper", "finesieve", "random at equal time"):
        assert name in out.splitlines()[0]
    # 480 examples end within the warm-up, and it says so.
    assert "finesieve is the same as full here: its gates stayed open" in out
    results = json.loads((output / "compare.json").read_text())
    assert [r["name"] for r in results] == ["full", "paper", "finesieve", "random at equal time"]
    kept = (output / "compare.md").read_text()
    assert all(f"| {r['name']} |" in kept for r in results)
    assert kept.split("\n\n")[-1].strip() in out  # the words are those of the terminal
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_run_that_ended_in_its_evaluation_goes_on_from_there(files: Path, tmp_path: Path) -> None:
    """Training done, checkpoint written, then killed: nothing is trained twice, nothing lost."""
    from finesieve.cli.config import Config
    from finesieve.cli.training.prepare import prepare
    from finesieve.cli.training.progress import Live
    from finesieve.cli.training.runfiles import RunFolder

    config = Config(
        train=str(files / "train.jsonl"),
        eval=(str(files / "eval.jsonl"),),
        model=str(files / "model"),
        max_length=16,
        batch_size=16,
        lr=3e-4,
        threads=THREADS,
        limit=64,
    )
    folder = RunFolder(str(tmp_path / "out"), resume=False)
    run = Run(config, prepare(config), folder, Live("", quiet=True))
    run.train()
    run.save()
    trained = {k: v.clone() for k, v in run.model.state_dict().items()}
    assert main(arguments(files, tmp_path / "out", "--limit", "64", "--resume")) == 0
    saved = load_model(str(tmp_path / "out" / "model"), ["sympy", "torch"], 0).state_dict()
    assert all(torch.equal(trained[k], saved[k]) for k in trained)
    s = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert s["steps"] == 4
