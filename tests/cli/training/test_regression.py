"""`--task regression`: numbers are learned, judged and saved in the labels' own unit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finesieve.cli.correlation import regression
from finesieve.cli.data.labels import amounts_hint
from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.tasks.registry import TASKS
from finesieve.cli.tasks.targets import Scale
from finesieve.cli.training.models import load_model
from tests.conftest import BY_HAND, arguments
from tests.tiny import small_gpt

REGRESSION = ["--task", "regression"]


@pytest.fixture(scope="module")
def numbers(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of texts with a number from 100 to 500: how many of four words are of one kind."""
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "model").symlink_to(files / "model")
    dice = random.Random(0)

    def row() -> dict[str, Any]:
        words = [dice.choice(("tensor", "symbol")) for _ in range(4)]
        label = 100.0 * (1 + words.count("tensor")) + dice.choice((-0.5, 0.5))
        return {"text_a": " ".join(words[:2]), "text_b": " ".join(words[2:]), "label": label}

    for name, many in (("train", 480), ("eval", 120)):
        lines = [json.dumps(row()) + "\n" for _ in range(many)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def learned(numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all three stages."""
    output = tmp_path_factory.mktemp("learned") / "out"
    assert main(arguments(numbers, output, *REGRESSION, *BY_HAND, "--lr", "1e-3")) == 0
    return output


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_it_learns_and_says_so_in_the_labels_unit(learned: Path) -> None:
    s = summary(learned)
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    assert s["eval"]["spearman"] > 0.5
    assert 50 < s["eval"]["mean_rmse"] < 150  # of a spread of 100
    assert s["eval"]["rmse"] < 0.9 * s["eval"]["mean_rmse"]
    # The loss is of standardised targets, so without a unit.
    assert s["eval"]["loss"] == pytest.approx(
        (s["eval"]["rmse"] / s["label_scale"]["std"]) ** 2, rel=1e-4
    )
    assert not {"accuracy", "macro_f1", "classes", "majority"} & s["eval"].keys()
    assert s["labels"] == []


def predictions(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
    texts, pairs = ([r[k] for r in rows] for k in ("text_a", "text_b"))
    batch = tokenizer(texts, pairs, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits.flatten().double().numpy()


def test_the_saved_model_predicts_in_the_labels_unit(learned: Path, numbers: Path) -> None:
    rows = [json.loads(line) for line in (numbers / "eval.jsonl").read_text().splitlines()]
    found = regression(predictions(learned / "model", rows), np.array([r["label"] for r in rows]))
    told = summary(learned)["eval"]
    for name in ("spearman", "pearson", "rmse"):
        assert found[name] == pytest.approx(told[name], rel=1e-3)


def test_a_saved_model_goes_on_from_where_it_was(learned: Path, numbers: Path) -> None:
    """Its head speaks in the labels' unit, and training in standard deviations of other labels."""
    scale, ids = Scale(300.0, 50.0), torch.tensor([[2, 7, 8, 3], [2, 9, 9, 3]])
    probe = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    folder, task = str(learned / "model"), TASKS["regression"]
    model = load_model(folder, [], 0, scale=scale, probe=probe, task=task).eval()
    plain = load_model(folder, [], 0, scale=scale, task=task).eval()
    with torch.inference_mode():
        standard, own = (net(**probe).logits.double().numpy() for net in (model, plain))
    assert np.ptp(own) > 0
    np.testing.assert_allclose(scale.labels(standard), own, rtol=1e-4)


def test_a_head_without_a_bias_is_told_of(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gpt(tmp_path / "gpt", pad="<pad>")
    more = ["--model", str(tmp_path / "gpt"), "--limit", "64", "--method", "full"]
    assert main(arguments(numbers, tmp_path / "out", *REGRESSION, *more)) == 0
    assert "the saved model predicts (label - " in capsys.readouterr().err
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    scale = summary(tmp_path / "out")["label_scale"]
    assert (config["label_mean"], config["label_std"]) == (scale["mean"], scale["std"])


def test_adapters_are_merged_before_the_unit_is(numbers: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    more = ["--lora", "2", "--lr", "5e-3", "--method", "full", "--limit", "256"]
    assert main(arguments(numbers, tmp_path / "out", *REGRESSION, *more)) == 0
    rows = [json.loads(line) for line in (numbers / "eval.jsonl").read_text().splitlines()]
    found = predictions(tmp_path / "out" / "model", rows)
    error = np.sqrt(np.mean((found - [r["label"] for r in rows]) ** 2))
    assert error == pytest.approx(summary(tmp_path / "out")["eval"]["rmse"], rel=1e-3)


def test_a_model_that_learns_nothing_is_warned_of(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--lr", "1e-9", "--limit", "32", "--head-start", "0", "--method", "full"]
    rows = [{"text": "one", "label": 1.5}, {"text": "one", "label": 2.5}] * 20
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "model").symlink_to(numbers / "model")
    assert main(arguments(tmp_path, tmp_path / "out", *REGRESSION, *more)) == 0
    told = capsys.readouterr()
    assert "predicts nearly the same number for every evaluation example" in told.err
    assert "Spearman 0.0000" in told.out
    assert "always naming the mean: RMSE 0.5)" in told.out


def test_a_comparison_of_the_other_task_is_not_gone_on_with(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "model").symlink_to(numbers / "model")
    output = tmp_path / "out"
    command = arguments(tmp_path, output, "--method", "full", command="compare")
    command = [w if w != "--method" else "--methods" for w in command]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, *REGRESSION, "--resume"]) == 2
    assert "task: 'classification' then, 'regression' now" in capsys.readouterr().err


def test_a_comparison_shows_correlations_and_no_classes(
    numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    command = arguments(numbers, output, *REGRESSION, *BY_HAND, "--limit", "320", command="compare")
    assert main(command) == 0
    shown = capsys.readouterr().out
    table = (output / "compare.md").read_text()
    assert table.startswith("| method | seeds | Spearman | Pearson | RMSE | held-out loss |")
    page = (output / "report.html").read_text()
    for text in (shown, table, page):
        assert "Always naming the mean would have an RMSE of" in text
        assert "against full training: " in text
        assert "; Spearman " in text
        assert ", RMSE " in text
    for word in ("accuracy", "Accuracy", "macro-F1", "class"):
        assert word not in shown
        assert word not in table
    for word in ("accuracy", "Accuracy", "macro-F1", "Each class", "weakest class", "recall"):
        assert word not in page
    assert "It reached a Spearman correlation of" in page
    assert "Spearman against total seconds" in page


def test_a_suite_may_have_sets_of_both_kinds(
    numbers: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = """
    name = "both"
    methods = ["full", "random"]
    claim = ["classes", "numbers"]
    [config]
    limit = 64
    eval_limit = 30
    max_length = 12
    model = "MODEL"
    [settings.random]
    share = 0.5
    [sets.classes]
    train = "classes/train.jsonl"
    eval = ["classes/eval.jsonl"]
    [sets.numbers]
    train = "numbers/train.jsonl"
    eval = ["numbers/eval.jsonl"]
    task = "regression"
    """
    (tmp_path / "both.toml").write_text(suite.replace("MODEL", str(files / "model")))
    (tmp_path / "classes").symlink_to(files)
    (tmp_path / "numbers").symlink_to(numbers)
    words = ["bench", str(tmp_path / "both.toml"), "--data-dir", str(tmp_path), "--output"]
    assert main([*words, str(tmp_path / "out")]) == 0
    head, _, *lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    names = head.split(" | ")
    for line in lines:
        cells = dict(zip(names, line.split(" | "), strict=True))
        classes = cells["| set"] == "| classes"
        assert bool(cells["accuracy"]) == bool(cells["macro-F1"]) == classes
        assert bool(cells["Spearman"]) == bool(cells["RMSE"]) == (not classes)


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (["0.5", "1.0"], [], "`finesieve compare` have --task regression"),
        ([0.5, 1.0], [], "`finesieve compare` have --task regression"),
        (["good", "1.0"], REGRESSION, "'label' is 'good'; --task regression expects a finite"),
        (["3,5", "1,0"], REGRESSION, "with a decimal point instead of the comma"),
        ([1.0, float("inf")], REGRESSION, "'label' is inf; --task regression expects a finite"),
        ([1.0, True], REGRESSION, "'label' is True; --task regression expects a finite number"),
        ([1.0, float("nan")], REGRESSION, "1 of 2 examples have no 'label' (rows 1, from 0)"),
        (["1.0", "nan"], REGRESSION, "1 of 2 examples have no 'label' (rows 1, from 0)"),
        ([2.5, 2.5], REGRESSION, "every label is 2.5; there is nothing to learn"),
        ([1.0, 2.0], [*REGRESSION, "--unlabelled", "keep"], "say --unlabelled drop"),
    ],
)
def test_labels_that_are_no_numbers(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    labels: list[Any],
    more: list[str],
    message: str,
) -> None:
    rows = [{"text": f"text {i}", "label": y} for i, y in enumerate(labels)]
    for name in ("train", "eval"):
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "model").symlink_to(files / "model")
    assert main(arguments(tmp_path, tmp_path / "out", *more)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_missing_numbers_are_dropped_when_that_is_said(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": y} for i, y in enumerate(("1.5", "NULL", "-1", ""))]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = load(str(tmp_path / "t.jsonl"), unlabelled="drop", task="regression")
    assert table.labels == [1.5, -1.0]
    assert any("2 of 4 examples have no 'label'" in note for note in table.notes)


def test_amounts_that_are_taken_for_classes_are_hinted_at(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 30} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    labels = load(str(tmp_path / "t.jsonl")).labels
    assert "30 different whole numbers are the labels of 60 examples" in amounts_hint(labels)
    assert "--task regression" in amounts_hint(labels)
    assert amounts_hint(labels * 3) == ""  # six rows each
    assert amounts_hint([str(x) for x in labels]) == ""
