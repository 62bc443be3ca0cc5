"""Opt-in, minutes, on real data: `pytest tests/cli/test_shared.py -m shared --data-dir=DIR`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finesieve.cli.data.table import load
from finesieve.cli.main import main

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture
def data(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--data-dir")
    if folder is None:
        pytest.skip("needs --data-dir")
    return Path(folder)


def test_sst2_reaches_stage_3_by_itself(data: Path, tmp_path: Path) -> None:
    folder = data / "sst2"
    output = tmp_path / "out"
    assert (
        main(
            [
                "train",
                "--train",
                str(folder / "train.jsonl.gz"),
                "--eval",
                str(folder / "validation.jsonl.gz"),
                "--limit",
                "12000",
                "--max-length",
                "64",
                "--lr",
                "2e-4",
                "--output",
                str(output),
                "--quiet",
            ]
        )
        == 0
    )
    s = json.loads((output / "summary.json").read_text())
    assert 3 in [m["stage"] for m in s["stages"]]
    assert s["examples"]["trained"] < 0.6 * s["examples"]["drawn"]
    assert s["eval"]["accuracy"] > 0.8
    parts = sum(s["seconds"][k] for k in ("decide", "score", "train", "data"))
    assert parts == pytest.approx(s["seconds"]["total"], rel=0.01)
    assert s["seconds"]["decide"] < 0.02 * s["seconds"]["total"]


def test_the_quantile_gate_collapses_on_sst2_and_is_noticed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "sst2"
    assert (
        main(
            [
                "train",
                "--train",
                str(folder / "train.jsonl.gz"),
                "--eval",
                str(folder / "validation.jsonl.gz"),
                "--limit",
                "8000",
                "--max-length",
                "64",
                "--lr",
                "2e-4",
                "--method",
                "quantile",
                "--output",
                str(tmp_path / "out"),
                "--quiet",
            ]
        )
        == 0
    )
    assert "the model is collapsing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clickbait", "snips", "trec6", "banking77", "mrpc", "emotion"])
def test_every_set_loads_with_its_columns_found(data: Path, name: str) -> None:
    table = load(str(data / name / "train.jsonl.gz"))
    assert len(table) > 3000
    assert (table.pairs is not None) == (name == "mrpc")
