"""The check of a GPU runs from its inputs to its sentences, and goes on where it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.on_gpu.inputs import Texts, batches, made_up
from benchmarks.on_gpu.parts import say_open, say_price

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
CPU = torch.device("cpu")


def texts(count: int = 60, classes: int = 2) -> Texts:
    found = made_up(count, 9, 300, seed=0)
    return Texts(found.tokens, found.starts, np.arange(count) % classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arrays: dict[str, Any] = {"classes": 2}
    for part, made in (("train", texts(320)), ("eval", texts(80))):
        for name in ("tokens", "starts", "labels"):
            arrays[f"{part}_{name}"] = getattr(made, name)
    np.savez_compressed(tmp_path / "sst2.npz", **arrays)
    return tmp_path


def test_all_of_it_runs_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "out.json"
    gpu.check(folder, file, 100.0, CPU, quick=True, only=["open", "sst2"])
    begun = json.loads(file.read_text())["parts"]
    gpu.check(folder, file, 0.0, CPU, quick=True, only=[])
    assert "No time was left for trainer, fp32, fp16, causal, price/2x32/8/16/eager" in (
        capsys.readouterr().out
    )
    gpu.check(folder, file, 100.0, CPU, quick=True, only=[])
    found = json.loads(file.read_text())
    assert {k: found["parts"][k] for k in begun} == begun  # nothing is measured twice
    assert found["machine"]["torch"] == torch.__version__
    parts = found["parts"]
    assert [x for x in parts if "error" in parts[x]] == [], parts
    assert list(parts) == [
        "open",
        *(f"sst2/0/{how}" for how in ("plain", "finesieve", "random", "full")),
        "trainer",
        "fp32",
        "fp16",
        "causal",
        "price/2x32/8/16/eager",
    ]
    assert parts["sst2/0/plain"]["steps"] == parts["sst2/0/full"]["steps"] == 10
    assert parts["sst2/0/random"]["trained"] <= 320
    assert 0 < parts["fp16"]["scored"] < 320
    assert parts["fp32"]["auto"]["scored"] > 0
    assert parts["causal"]["finesieve"]["steps"] < parts["causal"]["plain"]["steps"] == 60
    assert parts["price/2x32/8/16/eager"]["sieve"] > 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(parts)


def test_a_part_that_fails_leaves_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError("out of luck")

    file, only = folder / "out.json", ["open", "sst2/0/plain"]
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.on_gpu.parts.Check.open_gates", broken)
        gpu.check(folder, file, 100.0, CPU, quick=True, only=only)
    said = capsys.readouterr().out
    assert "open: RuntimeError: out of luck" in said
    assert "sst2/0/plain plain:" in said or "sst2/0 plain:" in said
    gpu.check(folder, file, 100.0, CPU, quick=True, only=only)  # and is tried again
    assert "RuntimeError" not in capsys.readouterr().out
    assert "ratio" in json.loads(file.read_text())["parts"]["open"]


def test_another_machines_results_are_not_gone_on_with(folder: Path) -> None:
    file = folder / "out.json"
    file.write_text(json.dumps({"machine": {"device": "another"}, "parts": {}}))
    with pytest.raises(SystemExit, match="was measured on"):
        gpu.check(folder, file, 1.0, CPU, quick=True, only=[])


def test_batches_hold_each_text_once() -> None:
    made = texts(50, classes=50)
    seen = [int(x) for batch in batches(made, 8, seed=3) for x in batch["labels"]]
    assert sorted(seen) == list(range(50))
    assert seen != sorted(seen)
    (one,) = batches(made.some(5), 8, seed=0)
    assert set(one["attention_mask"].sum(1).tolist()) <= set(np.diff(made.starts).tolist())
    row = made.batch(np.array([7]))
    assert row["input_ids"][0].tolist() == made.tokens[made.starts[7] : made.starts[8]].tolist()


@pytest.mark.parametrize(("ratio", "wanted"), [(1.019, True), (1.021, False)])
def test_open_gates_in_words(ratio: float, wanted: bool) -> None:
    said = say_open({"ratio": ratio, "plain_seconds": 0.024, "sieve_seconds": 0.024 * ratio})
    assert ("as wanted" in said) is wanted
    assert "24.00 ms" in said


@pytest.mark.parametrize(("sieve", "wanted"), [(0.057, True), (0.058, False), (0.04, False)])
def test_prices_in_words(sieve: float, wanted: bool) -> None:
    record = {"model": "minilm", "batch": 32, "longest": 16, "compiled": False}
    said = say_price({**record, "sieve": sieve, "outside": 0.05})
    assert ("as wanted" in said) is wanted
