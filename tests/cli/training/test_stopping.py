"""What a command says when it is stopped, when it saved nothing, and what its settings are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finesieve.cli.config import Config
from finesieve.cli.main import main
from finesieve.cli.settings import asked_for, settings_of
from finesieve.cli.training import models, train
from finesieve.errors import ConfigError
from tests.conftest import arguments


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ([], "training had not begun. Start again with:\n  finesieve train"),
        (["run.jsonl"], "nothing was saved. Remove the folder"),
        (["checkpoint.pt"], "since the last checkpoint. Go on with:\n  finesieve train"),
    ],
)
def test_stopped_at_once_it_says_what_is_left_and_how_to_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: list[str],
    told: str,
) -> None:
    def stopped(config: Any, output: str, *_: Any, **__: Any) -> Any:
        Path(output).mkdir()
        for name in left:
            (Path(output) / name).write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stopped)
    assert main(["train", "--train", "t.csv", "--output", str(tmp_path / "a b")]) == 130
    said = capsys.readouterr().err
    assert told in said
    assert f"--output '{tmp_path / 'a b'}'" in said
    assert said.rstrip().endswith("--resume") == ("checkpoint.pt" in left)


def test_the_settings_of_a_method_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--set", "help"]) == 0
    out = capsys.readouterr().out
    for line in ("  least (default: 0.2): share of", "  budget: total cost", "  starts: the share"):
        assert line in out
    assert out.count("  audit ") == 1  # of all three recipes
    assert main(["train", "--method", "random", "--set=help"]) == 0
    assert "  share" in capsys.readouterr().out
    assert main(["train", "--method", "full", "--set=help"]) == 0
    assert "  none" in capsys.readouterr().out
    assert main(["train", "--method", "papr", "--set", "help"]) == 2
    assert "did you mean 'paper'?" in capsys.readouterr().err


def test_what_is_asked_for() -> None:
    assert asked_for(["train", "--set", "train=0.2"]) is None
    assert asked_for(["train", "--text", "help"]) is None
    assert asked_for(["train", "--set=help", "--method=paper"]) == "paper"
    assert settings_of(["train=0.2", "who=me"]) == {"train": 0.2, "who": "me"}
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        settings_of(["train"])


def test_a_budget_that_was_a_random_subset_and_a_model_with_one_answer_are_told(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--limit", "128", "--head-start", "0", "--lr", "1e-9", "--set", "budget=0.5")
    words = [w for w in arguments(files, tmp_path / "out", *more) if w != "--quiet"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "the budget was spent on a random 5" in said.err
    assert "so this run is a random subset" in said.err
    assert "for every evaluation example. training was probably too short" in said.err
    assert "always naming the most frequent class: accuracy 0." in said.out


@pytest.mark.parametrize(
    ("served", "instructions", "precision"),
    [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")],
)
def test_auto_is_the_precision_that_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, served: bool, instructions: bool, precision: str
) -> None:
    """Served without instructions of its own: AVX-512 alone, where bf16 is slower than fp32."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: served)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: instructions, raising=False)
    config = Config(train="x", precision="auto", device="cpu")
    assert models.settled(config).precision == precision
    assert models.settled(Config(train="x", device="cpu")).precision == "fp32"
