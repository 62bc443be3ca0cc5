"""Rows whose texts are kept as bytes are the rows that were read."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finesieve.cli.data import streaming
from finesieve.cli.data.lean import Lean, names_of
from finesieve.cli.data.streaming import lean_rows
from finesieve.cli.data.table import rows_of, table_of
from finesieve.insight.packed import Packed

ODD: list[dict[str, Any]] = [
    {"text": "caf\u00e9 \U0001f600", "label": "a"},
    {"text": "", "label": "b"},
    {"text": None, "label": "a"},  # an empty text
    {"label": "a"},  # the same
    {"text": "no label of its own", "label": "b", "more": 1},
    {"text": None, "label": None, "else": "not blank, but without both"},
    {"text": "a", "label": 3},
    {},
]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_texts_are_a_sequence_like_a_list() -> None:
    texts = ["one", "", "caf\u00e9 \U0001f600", "half \ud800 a pair", "end"]
    packed = Packed(texts)
    assert list(packed) == texts
    assert [packed[i] for i in range(-5, 5)] == [texts[i] for i in range(-5, 5)]
    assert packed[1:4] == texts[1:4]
    assert packed[::-2] == texts[::-2]
    assert packed[3:] == texts[3:]
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            packed[beyond]


def test_rows_are_those_of_the_whole_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 3)
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)] + ODD
    rows += [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)]
    source = written(tmp_path / "a.jsonl", rows)
    lean, _ = lean_rows(source, None, None, None)
    whole, _ = rows_of(source)
    assert isinstance(lean, Lean)
    assert len(lean) == len(whole)
    columns = ("text", "label")
    assert [{k: r.get(k) for k in columns} for r in lean] == [
        {k: r.get(k) for k in columns} for r in whole
    ]
    for i in (0, 7, -1):
        assert lean[i].get("text") == whole[i].get("text")
    assert set(columns) <= set(names_of(lean)) <= set(names_of(whole))


def test_a_table_is_the_same_from_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 3)
    rows = [
        {"premise": f"one {i}", "hypothesis": f"two {i % 3}", "label": "xyz"[i % 3], "id": i}
        for i in range(40)
    ]
    rows[20] = {"premise": "", "hypothesis": None, "label": "x", "id": 20}
    rows[30] = {"premise": "", "hypothesis": "", "label": "", "id": None}  # blank
    source = written(tmp_path / "a.jsonl", rows)
    lean, whole = lean_rows(source, None, None, None)[0], rows_of(source)[0]
    one, other = (
        table_of(source, found, [], None, None, None, True, "refuse") for found in (lean, whole)
    )
    assert isinstance(one.texts, Packed)
    assert isinstance(one.pairs, Packed)
    assert list(one.texts) == other.texts
    assert list(one.pairs) == other.pairs
    assert one.labels == other.labels
    assert list(one.rows) == other.rows
    assert one.digest == other.digest
    assert [note.replace("'id'", "") for note in one.notes] == other.notes
    few = one.take([3, 19])
    assert few.texts == ["one 3", "one 19"]
    assert few.rows == [3, 19]


def test_a_label_is_given_to_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 2)
    source = written(tmp_path / "a.jsonl", [{"text": f"t {i}"} for i in range(5)] + [{"text": 7}])
    lean, _ = lean_rows(source, None, None, None)
    assert isinstance(lean, Lean)
    assert names_of(lean) == ["text"]
    lean.fill("label", 0)
    assert list(lean) == [{"text": f"t {i}", "label": 0} for i in range(5)] + [
        {"text": 7, "label": 0}
    ]
    assert names_of(lean) == ["text", "label"]


def test_a_row_takes_little_beside_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 10)
    n, text = 20_000, "some words of a text "
    rows = [{"text": text + str(i), "label": f"class {i % 5}", "more": i} for i in range(n)]
    source = written(tmp_path / "a.jsonl", rows)
    del rows
    tracemalloc.start()
    try:
        found, _ = lean_rows(source, None, None, None)
        kept, _ = tracemalloc.get_traced_memory()
        table = table_of(source, found, [], None, None, None, True, "refuse")
        del found
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == n
    assert kept / n < len(text) + 5 + 40
    assert after / n < len(text) + 5 + 50
