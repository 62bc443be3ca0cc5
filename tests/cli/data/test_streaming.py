"""Large files are read row by row, and refused at once where memory would not do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finesieve.cli.data import streaming
from finesieve.cli.data.streaming import lean_rows, rows_in
from finesieve.cli.data.table import _digest, rows_of
from finesieve.cli.inspecting import room
from finesieve.cli.main import main
from finesieve.errors import DataError


@pytest.fixture(autouse=True)
def _few_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 10)


def examples(n: int = 50) -> list[dict[str, Any]]:
    return [
        {"text": f"text {i} \u2028 of some words", "label": f"c{i % 2}", "more": [i]}
        for i in range(n)
    ]


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_only_the_needed_columns_stay(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", examples())
    whole, _ = rows_of(source)
    found, notes = lean_rows(source, None, None, None)
    assert notes == []
    assert found[:10] == whole[:10]
    assert found[10:] == [{k: row[k] for k in ("text", "label")} for row in whole[10:]]
    assert found[40]["label"] is found[0]["label"]  # one string for all
    named, _ = lean_rows(source, "text", None, "more")
    assert named[20] == {"text": whole[20]["text"], "more": [20]}


def test_parquet_is_read_likewise(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(examples()), path)
    found, _ = lean_rows(str(path), None, None, None)
    assert [row["text"] for row in found] == [row["text"] for row in examples()]
    assert set(found[30]) == {"text", "label"}
    assert rows_in(str(path)) == 50


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(examples(3)),  # an array
        json.dumps({"text": ["a", "b"], "label": [0, 1]}),  # an object of columns
    ],
)
def test_what_is_no_plain_json_lines_is_read_as_a_whole(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8")
    assert lean_rows(str(path), None, None, None)[0] == rows_of(str(path))[0]


def test_complaints_are_those_of_the_whole_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(examples(1)[0]) + "\n{broken\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: broken JSON"):
        lean_rows(str(path), None, None, None)
    path.write_bytes('{"text": "caf\u00e9", "label": 1}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="line 1: byte 0xe9 is not UTF-8"):
        lean_rows(str(path), None, None, None)
    with pytest.raises(DataError, match="no file"):
        lean_rows(str(tmp_path / "b.jsonl"), None, None, None)


def test_the_number_of_rows_is_told_by_the_files_size(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", examples(1000))
    assert rows_in(source) == pytest.approx(1000, rel=0.1)
    assert rows_in(str(tmp_path / "none.jsonl")) is None
    assert rows_in("a/hub-id") is None


def test_digests_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesieve.cli.data.table._TOGETHER", 3)
    columns: list[Any] = [["a", "\u00e9"] * 4, None, [0, 1] * 4, []]
    assert _digest(*columns) == hashlib.sha1(json.dumps(columns).encode()).hexdigest()


def test_more_rows_than_fit_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "a.jsonl", examples(2000))
    monkeypatch.setattr(room, "free", lambda: room.BASE + 500_000)
    monkeypatch.setattr("finesieve.cli.inspecting.look.lean_rows", None)  # is not come to
    arguments = ["inspect", source, "--output", str(tmp_path / "out"), "--model"]
    assert main([*arguments, "none"]) != 0
    said = capsys.readouterr().err
    assert "about 2,1" in said
    assert "0.3 kB a row" in said
    assert "give it 1,6" in said
    assert "look at some of them, --limit 1600; or" in said
    assert main([*arguments, "minilm"]) != 0
    said = capsys.readouterr().err
    assert "--limit 160; or look for repeats alone, --model none" in said
    # With fewer than can be read, a limit does not help.
    monkeypatch.setattr(room, "free", lambda: room.BASE + 100_000)
    assert main([*arguments, "none"]) != 0
    assert "--limit" not in capsys.readouterr().err


def test_the_limit_that_is_offered_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "a.jsonl", examples(2000))
    monkeypatch.setattr(room, "free", lambda: room.BASE + 500_000)
    arguments = ["inspect", source, "--model", "none", "--output", str(tmp_path / "out"), "--quiet"]
    assert main(arguments) != 0
    offered = capsys.readouterr().err.split("--limit ")[1].split(";")[0]
    assert main([*arguments, "--limit", offered]) == 0
    assert f"{int(offered):,} of 2,000 rows were looked at" in capsys.readouterr().out


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", examples(2000))
    found = room.expected(source, model=False)
    assert found is not None
    assert (room.free() or 0) > found[1]
    room.check_room(source, model=True)
    room.check_room("a/hub-id", model=True)


def test_a_table_that_is_read_as_a_whole_needs_more_and_a_limit_less(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "some words,a\n" * 5000)
    lean, whole = room.expected(str(path), model=False), room.expected(str(path), False, whole=True)
    assert lean is not None
    assert whole is not None
    assert lean[0] == pytest.approx(5000, rel=0.03)
    assert whole[1] - lean[1] == pytest.approx((room.WHOLE - room.LEAN) * 5000, rel=0.05)
    seen, few = room.expected(str(path), model=True), room.expected(str(path), True, 1000)
    assert seen is not None
    assert few is not None
    each = room.FEATURES + room.LEAN
    assert seen[1] - few[1] == pytest.approx(each * 4000, rel=0.05)


def test_a_table_that_only_fits_row_by_row_is_refused_if_it_is_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "some words,a\n" * 2000)
    needed = room.expected(str(path), model=False)
    assert needed is not None
    monkeypatch.setattr(room, "free", lambda: needed[1] + 300_000)
    arguments = ["inspect", str(path), "--model", "none", "--quiet", "--output"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    path.write_text("sep=,\n" + path.read_text())  # for Excel
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "b")]) != 0
    said = capsys.readouterr().err
    assert "in this form it is read as a whole" in said
    assert "write them as JSON lines or Parquet" in said
