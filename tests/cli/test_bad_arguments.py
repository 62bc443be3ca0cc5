"""Bad input ends with status 2 and one message: no traceback, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from finesieve.cli.main import main
from finesieve.cli.training.models import load_model
from finesieve.cli.training.train import Run
from tests.conftest import arguments
from tests.tiny import small_gpt

CASES: list[tuple[list[str], str]] = [
    (["--train", "no.jsonl"], "no file"),
    (["--label", "lable"], "did you mean 'label'"),
    (["--text", "body"], "has no column 'body'"),
    (["--method", "finesive"], "did you mean 'finesieve'"),
    (["--set", "train=20"], "expected a share in (0, 1], e.g. 0.2 for 20 %"),
    (["--set", "train=0"], "expected a share in (0, 1]"),
    (["--set", "score=-1"], "expected a share in (0, 1]"),
    (["--set", "trian=0.2"], "trian"),
    (["--set", "seed=3"], "seed is set for the whole run"),
    (["--set", "slack=Infinity"], "expected a finite number"),
    (["--set", "recent=0"], "recent is 0; expected a number of examples"),
    (["--set", "recent=5.5"], "expected a whole number"),
    (["--set", "least=null"], "expected a finite number"),
    (["--set", "cost_ratio=abc"], "expected a finite number"),
    (["--set", "window=2048.5"], "expected a whole number"),
    (["--method", "paper", "--set", "vocabulary=99999999999"], "vocabulary"),
    (["--seed", "-1"], "seed is -1"),
    (["--weight-decay", "nan"], "weight_decay"),
    (["--device", "meta"], "no device"),
    (["--set", "train"], "expected NAME=VALUE"),
    (["--set", "starts=3"], "expected e.g. starts="),
    (["--method", "random", "--set", "share=1.2"], "expected a share"),
    (["--batch-size", "0"], "batch_size is 0"),
    (["--epochs", "0"], "epochs is 0"),
    (["--lr", "5"], "expected a learning rate"),
    (["--model", "./nowhere"], "no folder"),
    (["--device", "tpu9"], "no device"),
    (["--max-length", "9999"], "512 positions"),
    (["--freeze", "99"], "the model has 6 layers"),
    (["--lora", "-1"], "lora is -1; expected a rank"),
    (["--dropout", "1.5"], "dropout is 1.5"),
    (["--dropout", "some"], "expected a rate or 'model'"),
]


def test_damaged_and_foreign_checkpoints(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    command = [*arguments(files, output), "--resume"]
    (output / "checkpoint.pt").write_bytes(b"half a file")
    assert main(command) == 2
    assert "damaged or no checkpoint" in capsys.readouterr().err
    torch.save({"version": 99}, output / "checkpoint.pt")
    assert main(command) == 2
    assert "checkpoint version 99" in capsys.readouterr().err


def bad(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("finesieve: error:") == 1
    return captured.err


@pytest.mark.parametrize(("more", "message"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_bad_arguments(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert message in bad(capsys, *arguments(files, tmp_path / "out", *more))


def folder_of(files: Path, tmp_path: Path, *skip: str) -> Path:
    target = tmp_path / "model"
    shutil.copytree(files / "model", target, ignore=shutil.ignore_patterns(*skip))
    return target


def test_a_model_folder_without_weights(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder_of(files, tmp_path, "*.safetensors")
    message = bad(capsys, *arguments(files, tmp_path / "out", "--model", str(model)))
    assert "has no weights; expected one of model.safetensors" in message
    (model / "config.json").unlink()
    message = bad(capsys, *arguments(files, tmp_path / "out2", "--model", str(model)))
    assert "has no config.json" in message


def test_a_tokenizer_without_padding(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_gpt(tmp_path / "gpt")
    message = bad(capsys, *arguments(files, tmp_path / "out", "--model", str(model)))
    assert "has no padding token" in message


def test_an_output_folder_in_use(
    finished: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "summary.json").read_text()
    assert "holds another run" in bad(capsys, *arguments(files, finished))
    assert (finished / "summary.json").read_text() == before
    (tmp_path / "file").write_text("mine")
    assert "is a file" in bad(capsys, *arguments(files, tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    told = bad(capsys, *arguments(files, tmp_path / "new", "--resume"))
    assert "nothing to resume" in told
    assert "leave out --resume" in told


def test_resuming_on_other_data_is_refused(
    finished: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from finesieve.cli.config import Config
    from finesieve.cli.training.prepare import prepare
    from finesieve.cli.training.progress import Live
    from finesieve.cli.training.runfiles import CHECKPOINT_VERSION, RunFolder

    config = Config(
        **{
            **json.loads((finished / "summary.json").read_text())["config"],
            "settings": {},
            "train": str(tmp_path / "t.jsonl"),
        }
    )
    lines = (files / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "t.jsonl").write_text("".join(lines))
    folder = RunFolder(str(tmp_path / "out"), resume=False)
    Run(config, prepare(config), folder, Live("", quiet=True)).save()
    command = arguments(files, tmp_path / "out", "--resume")
    command[2] = str(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text("".join(reversed(lines)))
    assert "another configuration (training data:" in bad(capsys, *command)
    torch.save({"version": CHECKPOINT_VERSION}, tmp_path / "out" / "checkpoint.pt")
    assert "another configuration" in bad(capsys, *command)
    torch.save({"version": CHECKPOINT_VERSION + 1}, tmp_path / "out" / "checkpoint.pt")
    assert f"this finesieve reads {CHECKPOINT_VERSION}" in bad(capsys, *command)


def test_nan_losses_stop_the_run_with_a_message(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose weights are NaN: every loss is; the rule is said, and the status is 2."""
    model = folder_of(files, tmp_path)
    net = load_model(str(model), ["a", "b"], 0)
    with torch.no_grad():
        net.classifier.weight.fill_(float("nan"))
    net.save_pretrained(model)
    message = bad(capsys, *arguments(files, tmp_path / "out", "--model", str(model)))
    assert "NaN or infinite (the run stops at more than 1 %" in message
