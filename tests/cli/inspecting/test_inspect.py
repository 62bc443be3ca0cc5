"""`finesieve inspect` and `finesieve clean`, from a file to a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finesieve.cli.main import main
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny.bert().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def write(path: Path, n: int = 160, **more: Any) -> Path:
    dice = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            words = dice.integers(0, 30, 8) + 30 * (i % 2)
            row = {"text": " ".join(f"w{j}" for j in words), "label": "ab"[i % 2], **more}
            if i < 4 and row["label"]:
                row["label"] = "ab"[1 - i % 2]
            file.write(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")
    return path


def inspected(data: Path, out: Path, *options: str) -> int:
    return main(["inspect", str(data), "--output", str(out), "--quiet", *options])


@pytest.mark.parametrize("trains", [False, True])
def test_from_data_to_confirmed_issues_to_clean_data(
    tmp_path: Path, model: str, trains: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write(tmp_path / "data.jsonl"), tmp_path / "out"
    options = [] if trains else ["--no-train"]
    assert inspected(data, out, "--model", model, "--max-length", "16", *options) == 0
    assert "most suspicious are listed first" in capsys.readouterr().out
    import pyarrow.parquet as pq

    examples = pq.read_table(out / "examples.parquet").to_pydict()
    assert examples["row"] == list(range(160))
    assert ("first_loss" in examples) == trains
    if trains:  # a tenth is held out
        assert np.isfinite(np.array(examples["first_loss"], dtype=float)).mean() > 0.8
    with (out / "issues.csv").open(newline="") as file:
        issues = list(csv.DictReader(file))
    issues[0]["confirmed"] = "Yes"
    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(issues[0]))
        writer.writeheader()
        writer.writerows(issues)
    target = tmp_path / "clean.jsonl"
    assert main(["clean", str(data), "--drop", str(filled), "--output", str(target)]) == 0
    before = data.read_text().splitlines()
    del before[int(issues[0]["row"])]
    assert [json.loads(x) for x in target.read_text().splitlines()] == list(map(json.loads, before))
    # Nothing by itself, and nothing of other data.
    assert main(["clean", str(data), "--drop", str(out / "issues.csv"), "--output", "x.csv"]) == 2
    assert "confirms no row" in capsys.readouterr().err
    other = write(tmp_path / "other.jsonl", n=100)
    other.write_text("".join(reversed(other.read_text().splitlines(keepends=True))))
    assert main(["clean", str(other), "--drop", str(filled), "--output", "x.csv"]) == 2
    assert main(["clean", str(data), "--drop", str(filled), "--output", str(target)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_clean_writes_what_can_be_read_again(tmp_path: Path, ending: str) -> None:
    from finesieve.cli.data.table import load

    data = write(tmp_path / "data.jsonl", n=6)
    drop = tmp_path / "drop.csv"
    drop.write_text("row,confirmed\n2,x\n3,no\n")
    target = tmp_path / f"clean.{ending}"
    assert main(["clean", str(data), "--drop", str(drop), "--output", str(target)]) == 0
    before, after = load(str(data)), load(str(target))
    kept = [0, 1, 3, 4, 5]
    assert after.texts == [before.texts[i] for i in kept]
    assert after.labels == [before.labels[i] for i in kept]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheet_programs_make_of_the_issues_is_read(
    tmp_path: Path, encoding: str, delimiter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["plain", "a café; two,\r\nthree", "naïve\tΩ"]
    data = tmp_path / "data.jsonl"
    rows = [{"text": text, "label": number} for number, text in enumerate(texts)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drop, target = tmp_path / "drop.csv", tmp_path / "clean.jsonl"

    def cleaned(number: int, text: str) -> int:
        with drop.open("w", newline="", encoding=encoding, errors="replace") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([("row", "confirmed", "text"), (number, "yes", text)])
        return main(["clean", str(data), "--drop", str(drop), "--output", str(target)])

    for number, text in enumerate(texts):
        assert cleaned(number, text.replace("\r\n", "\n")) == 0
        left = [json.loads(line)["text"] for line in target.read_text().splitlines()]
        assert left == texts[:number] + texts[number + 1 :]
        target.unlink()
    for wrong in ("a café; two", "plain", "é", "??"):
        assert cleaned(1, wrong) == 2
        assert "of other data" in capsys.readouterr().err


def test_long_texts_in_the_issues_are_read(tmp_path: Path) -> None:
    data, drop, target = (tmp_path / name for name in ("data.jsonl", "drop.csv", "clean.jsonl"))
    texts = ["x" * 200_000, "y"]
    data.write_text("".join(json.dumps({"text": t, "label": t[0]}) + "\n" for t in texts))
    drop.write_text(f"row,confirmed,text\n0,yes,{texts[0]}\n")
    before = csv.field_size_limit(1 << 17)  # Python's own
    try:
        assert main(["clean", str(data), "--drop", str(drop), "--output", str(target)]) == 0
    finally:
        csv.field_size_limit(before)
    assert json.loads(target.read_text())["text"] == "y"


def test_data_without_labels_and_without_model(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.jsonl", label=None)
    assert inspected(data, tmp_path / "a", "--model", model, "--max-length", "16") == 0
    assert "There are no labels" in capsys.readouterr().out
    assert inspected(data, tmp_path / "b", "--model", "none") == 0
    assert not (tmp_path / "b" / "issues.csv").exists()
    assert inspected(data, tmp_path / "b", "--model", "none") == 2
    assert "not empty" in capsys.readouterr().err


def test_a_few_rows_of_many_keep_their_numbers(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    data = write(tmp_path / "data.jsonl", n=300)
    options = ["--model", model, "--max-length", "16", "--limit", "120"]
    for name, more in (("a", []), ("b", ["--no-train"]), ("c", ["--thorough"])):
        assert inspected(data, tmp_path / name, *options, *more) == 0
        assert "120 of 300 rows were looked at, chosen at random." in capsys.readouterr().out
        found = pq.read_table(tmp_path / name / "examples.parquet").to_pydict()
        assert len(found["row"]) == 120
        assert found["row"] == sorted(set(found["row"]))
        assert max(found["row"]) > 120
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        assert found["label"] == [rows[i]["label"] for i in found["row"]]
    assert inspected(data, tmp_path / "d", "--limit", "0") == 2
    assert "limit is 0" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_numbers_are_no_classes_and_that_is_said(
    tmp_path: Path, model: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"w{i % 60} w{i % 7} w{i % 11}", "score": i % 9 / 2} for i in range(140)]
    data = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        data.write_text("text,score\n" + "".join(f"{r['text']},{r['score']}\n" for r in rows))
    options = ["--label", "score", "--max-length", "16", "--model"]
    for name, which in (("a", model), ("b", "none")):
        assert inspected(data, tmp_path / name, *options, which) == 0
        said = capsys.readouterr().out
        assert "The labels in 'score' are numbers such as 0.5, not classes" in said
        assert "look wrong" not in said
        assert not (tmp_path / name / "issues.csv").exists()


def test_a_language_models_rows_from_a_file(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data, out = tmp_path / "causal", tmp_path / "rows.jsonl", tmp_path / "out"
    tiny.causal().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    rows = [{"prompt": f"w{i % 50} w2", "completion": " w3 w4" * (1 + i)} for i in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ["--model", str(folder), "--language-model"]
    assert inspected(data, out, *options, "--max-length", "32") == 0
    said = capsys.readouterr().out
    assert "6 of 20 rows are cut at 32 tokens" in said
    assert "The mean loss of a target token is" in said
    page = (out / "insights.html").read_text(encoding="utf-8")
    assert "What rows.jsonl tells" in page
    import pyarrow.parquet as pq

    found = pq.read_table(out / "examples.parquet").to_pydict()
    assert found["tokens"] == [min(32, 2 + 2 * (1 + i) + 1) for i in range(20)]
    assert found["targets"][0] == 3
    assert inspected(data, tmp_path / "few", *options, "--limit", "5") == 0
    assert "5 of 20 rows were looked at" in capsys.readouterr().out
    few = pq.read_table(tmp_path / "few" / "examples.parquet").to_pydict()
    assert few["row"] == sorted(set(few["row"]))
    assert max(few["row"]) >= 5
    assert inspected(data, tmp_path / "b", *options, "--label", "x") != 0
    assert "--label: a language model's rows" in capsys.readouterr().err
    classifier = ["--model", model, "--language-model"]
    assert inspected(data, tmp_path / "c", *classifier) != 0
    assert "language model" in capsys.readouterr().err
