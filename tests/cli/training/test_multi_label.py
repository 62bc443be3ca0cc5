"""`--task multi-label`: several labels a text are read, learned, judged and saved."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.tasks.registry import TASKS
from tests.conftest import BY_HAND, arguments

TASK = ["--task", "multi-label"]
WORDS = {"maths": "sum", "text": "string", "files": "path"}


def row(dice: random.Random) -> dict[str, Any]:
    """A text with a word for each of its labels, of which there may be none."""
    labels = [name for name in WORDS if dice.random() < 0.4]
    words = [WORDS[name] for name in labels] + dice.choices(["the", "a", "of"], k=3)
    dice.shuffle(words)
    return {"text": " ".join(words), "labels": labels, "label": "not this one"}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.fixture(scope="module")
def many(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    (folder / "model").symlink_to(files / "model")
    dice = random.Random(0)
    for name, count in (("train", 480), ("eval", 100)):
        (folder / f"{name}.jsonl").write_text(lines([row(dice) for _ in range(count)]))
    return folder


@pytest.fixture(scope="module")
def learned(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all three stages."""
    output = tmp_path_factory.mktemp("learned") / "out"
    assert main(arguments(many, output, *TASK, *BY_HAND, "--epochs", "3")) == 0
    return output


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_it_learns_several_labels(learned: Path) -> None:
    s = summary(learned)
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    assert s["labels"] == ["files", "maths", "text"]
    assert s["eval"]["micro_f1"] > 0.8 > s["eval"]["majority"]
    assert s["eval"]["exact"] > 0.5
    assert [one["name"] for one in s["eval"]["classes"]] == s["labels"]
    assert "accuracy" not in s["eval"]


def test_the_saved_model_gives_each_label_a_probability(learned: Path, many: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(learned / "model")
    model = AutoModelForSequenceClassification.from_pretrained(learned / "model").eval()
    assert model.config.problem_type == "multi_label_classification"
    rows = [json.loads(line) for line in (many / "eval.jsonl").read_text().splitlines()]
    batch = tokenizer([r["text"] for r in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        given = torch.sigmoid(model(**batch).logits) > 0.5
    right = [
        {model.config.id2label[i] for i in one.nonzero().flatten().tolist()} == set(r["labels"])
        for one, r in zip(given, rows, strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(summary(learned)["eval"]["exact"], abs=0.011)


def test_a_comparison_and_its_page_speak_of_labels(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    command = arguments(many, output, *TASK, *BY_HAND, "--limit", "320", command="compare")
    assert main(command) == 0
    shown = capsys.readouterr().out
    table = (output / "compare.md").read_text()
    assert table.startswith("| method | seeds | micro-F1 | macro-F1 | all labels right |")
    page = (output / "report.html").read_text()
    for text in (shown, table, page):
        assert "Always naming the most frequent label would have a micro-F1 of" in text
        assert "; micro-F1 " in text
        assert ", all labels right " in text
    for word in ("Each label", "It reached a micro-F1 of"):
        assert word in page
    for word in ("accuracy", "Each class", "weakest class"):
        assert word not in page
    assert re.search(r"<li><code>[\d.]+</code> row \d+ \[(no label|[a-z, ]+)\] ", page)


def test_a_suite_may_have_sets_of_several_tasks(
    many: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = """
    name = "both"
    methods = ["full", "random"]
    claim = ["classes", "labels"]
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
    [sets.labels]
    train = "labels/train.jsonl"
    eval = ["labels/eval.jsonl"]
    task = "multi-label"
    label_names = "files,maths,text"
    """
    data = tmp_path / "data"
    data.mkdir()
    (data / "classes").symlink_to(files)
    (data / "labels").symlink_to(many)
    path = tmp_path / "both.toml"
    path.write_text(suite.replace("MODEL", str(files / "model")))
    output = str(tmp_path / "results")
    assert main(["bench", str(path), "--data-dir", str(data), "--output", output]) == 0
    heads, _, *cells = capsys.readouterr().out.splitlines()[:6]
    assert heads.startswith("| set | method | seeds | accuracy | micro-F1 | macro-F1 | all labels")
    assert [line.split(" | ")[3] != "" for line in cells] == [True, True, False, False]


def labels_of(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> Any:
    (tmp_path / "t.jsonl").write_text(lines(rows))
    return load(str(tmp_path / "t.jsonl"), task="multi-label", **more)


@pytest.mark.parametrize(
    ("given", "labels", "note"),
    [
        (["a|b", "b", "c; d|a"], [("a", "b"), ("b",), ("c; d", "a")], "is split at '|'"),
        (["a;b", "b"], [("a", "b"), ("b",)], "is split at ';'"),
        (["a, b", "b", "a,b"], [("a", "b"), ("b",), ("a", "b")], "is split at ','"),
        (["['a', 'b']", "[]", '["b"]'], [("a", "b"), (), ("b",)], None),
        ([["a", "b", "a"], [], ["b"]], [("a", "b"), (), ("b",)], None),
        ([[3, 1], [1]], [(3, 1), (1,)], None),
        (["3|1", "1"], [(3, 1), (1,)], "is split"),
        ([3, 1], [(3,), (1,)], None),
        ([[0, 0, 1], [1, 0, 1]], [(2,), (0, 2)], "lists of 0 and 1, a place for each label"),
        ([[0, 1], [1, 0]], [(0, 1), (1, 0)], None),  # these may be numbers of labels
    ],
)
def test_the_ways_in_which_several_labels_are_written(
    tmp_path: Path, given: list[Any], labels: list[Any], note: str | None
) -> None:
    table = labels_of(tmp_path, [{"text": f"t{i}", "labels": y} for i, y in enumerate(given)])
    assert table.labels == labels
    assert any(note in told for told in table.notes) if note else not table.notes


def test_numbers_get_their_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("joy\nfear\nanger\n")
    rows = [{"text": "a", "labels": [2, 0]}, {"text": "b", "labels": "1"}]
    table = labels_of(tmp_path, rows, label_names=str(tmp_path / "names.txt"))
    assert table.labels == [("anger", "joy"), ("fear",)]
    assert TASKS["multi-label"].names(table, [], ["joy", "fear", "anger"])[0] == [
        "joy",
        "fear",
        "anger",
    ]


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        ([["a"], ["b", 1.5]], TASK, "example 1: 'labels' is 1.5"),
        ([["a"], ["b", None]], TASK, "example 1: a label in 'labels' is empty"),
        ([["a"], [["b"]]], TASK, "example 1: 'labels' is a list"),
        ([["a"], None], TASK, "say --unlabelled keep if none of the labels applies"),
        ([[0], [7]], [*TASK, "--label-names", "x,y"], "'labels' has 7, which is none of the 2"),
        ([["a"], ["a"]], TASK, "has the label 'a' alone"),
        ([[], []], TASK, "has no label at all"),
        ([["a"], ["b"]], [], "several labels a text with --task multi-label"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    labels: list[Any],
    more: list[str],
    message: str,
) -> None:
    (tmp_path / "model").symlink_to(files / "model")
    rows = [{"text": f"text {i}", "labels": y} for i, y in enumerate(labels)]
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text(lines(rows))
    assert main(arguments(tmp_path, tmp_path / "out", *more)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_a_cell_without_a_label_may_mean_that_none_applies(tmp_path: Path) -> None:
    rows = [{"text": "a", "labels": "x|y"}, {"text": "b", "labels": ""}, {"text": "c"}]
    table = labels_of(tmp_path, rows, unlabelled="keep")
    assert table.labels == [("x", "y"), (), ()]
    assert labels_of(tmp_path, rows, unlabelled="drop").labels == [("x", "y")]


def test_one_label_each_is_hinted_at(tmp_path: Path) -> None:
    table = labels_of(tmp_path, [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": ["y"]}])
    (note,) = TASKS["multi-label"].names(table, [], None)[1]
    assert "2 labels, 1.00 an example; no example has several" in note


def test_fasttext_has_several_labels_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("__label__x __label__y fine\n__label__y dull\n")
    table = load(str(tmp_path / "a.txt"), task="multi-label")
    assert (table.texts, table.labels) == (["fine", "dull"], [("x", "y"), ("y",)])


def test_inspect_says_that_it_cannot_judge_several_labels(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["inspect", str(many / "train.jsonl"), "--output", str(tmp_path / "o")]
    assert main([*command, "--label", "labels"]) == 2
    assert "several labels a text with --task multi-label" in capsys.readouterr().err
