"""Reading: every format, column detection, and one clear message for each kind of bad input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import finesieve as fs
from finesieve.cli.data import docstrings
from finesieve.cli.data.table import label_names, load

ROWS = [
    {"text": "fine film", "label": "pos"},
    {"text": "dull, long", "label": "neg"},
    {"text": 'he said "no"', "label": "neg"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind == "jsonl":
        text = "".join(json.dumps(r) + "\n" for r in rows)
    elif kind == "tsv":
        text = "\t".join(rows[0]) + "\n"
        text += "".join("\t".join(map(str, r.values())) + "\n" for r in rows)
    else:
        import csv
        import io

        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        text = out.getvalue()
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.parquet"]
)
def test_every_format_reads_alike(tmp_path: Path, name: str) -> None:
    table = load(str(write(tmp_path / name, ROWS)))
    assert table.texts == [r["text"] for r in ROWS]
    assert table.labels == ["pos", "neg", "neg"]
    assert table.rows == [0, 1, 2]


def test_columns_are_found_by_their_usual_names(tmp_path: Path) -> None:
    pair = [{"idx": 1, "sentence2": "b", "sentence1": "a", "label": 1}]
    table = load(str(write(tmp_path / "a.jsonl", pair)))
    assert (table.texts, table.pairs, table.labels) == (["a"], ["b"], [1])
    odd = [{"id": 3, "Utterance": "hello", "Intent": "greet"}]
    assert load(str(write(tmp_path / "b.csv", odd))).columns == ("Utterance", None, "Intent")
    one = [{"label": 1, "remark": "nice"}]
    assert load(str(write(tmp_path / "c.jsonl", one))).columns[0] == "remark"
    named = load(str(write(tmp_path / "d.jsonl", pair)), text="sentence2", label="idx")
    assert (named.texts, named.pairs, named.labels) == (["b"], None, [1])


@pytest.mark.parametrize(
    ("value", "label"),
    [("1", 1), ("1.0", 1), (" pos ", "pos"), (True, 1), (2.0, 2), ("nan", "nan"), ("007", "007")],
)
def test_labels_are_whole_numbers_or_text(tmp_path: Path, value: Any, label: Any) -> None:
    assert load(str(write(tmp_path / "a.jsonl", [{"text": "x", "label": value}]))).labels == [label]


def test_empty_texts_are_dropped_or_kept_and_it_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"text": "  ", "label": "pos"}])
    table = load(str(path))
    assert len(table) == 3
    assert "1 of 4 rows with an empty text dropped" in table.notes[0]
    table = load(str(path), keep_empty=True)
    assert len(table) == 4
    assert "kept" in table.notes[0]


def test_quotes_in_tsv_are_plain_characters(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"open quote\t1\nnext\t0\n')
    assert load(str(tmp_path / "a.tsv")).texts == ['"open quote', "next"]


def test_json_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028two", "label": 1}\n', encoding="utf-8")
    assert load(str(tmp_path / "a.jsonl")).texts == ["one\u2028two"]


BAD = {
    "nothing.csv": (None, "no file .*nothing.csv"),
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"text,label\n", "is empty"),
    "broken.jsonl": (b'{"text": "a", "label": 1}\n{"text": \n', "line 2: broken JSON"),
    "array.jsonl": (b'[{"text": "a"},\n', r"expected one object a line"),
    "number.jsonl": (b"3\n", "line 1: a int; expected one JSON object"),
    "latin.csv": (
        "text,label\nfine,1\ncaf\xe9,1\n".encode("latin1"),
        "line 3: byte 0xe9 is not UTF-8.*iconv",
    ),
    "cells.csv": (b"text,label\na,1\nb,1,2\n", "line 3: 3 cells, but the header has 2"),
    "nolabel.csv": (b"text,mark\na,1\n", "which column is the label.*'text', 'mark'"),
    "notext.csv": (b"one,two,label\na,b,1\n", "which column is the text.*'one', 'two'"),
    "missing.jsonl": (
        b'{"text": "a", "label": null}\n{"text": "b", "label": 1}\n',
        "1 of 2 examples have no 'label'",
    ),
    "real.csv": (b"text,label\na,0.5\n", "0.5; expected classes"),
    "real.jsonl": (b'{"text": "a", "label": 0.5}\n', "0.5; expected classes"),
    "infinite.jsonl": (b'{"text": "a", "label": Infinity}\n', "inf; expected classes"),
    "deep.jsonl": (b"[" * 100000 + b"\n", "JSON"),
    "digits.jsonl": (b'{"text": "a", "label": ' + b"1" * 5000 + b"}\n", "unreadable JSON"),
    "half.jsonl": (b'{"text": "\\ud800", "label": 1}\n', "half of a surrogate pair"),
    "body.csv.gz": (gzip.compress(b"text,label\n" * 50)[:-12] + b"x" * 12, "cannot read"),
    "list.jsonl": (b'{"text": "a", "label": [1]}\n', "is a list; expected one class"),
    "numbers.jsonl": (b'{"text": 5, "label": 1}\n', "'text' is a int .*expected text"),
    "blank.csv": (b"text,label\n ,1\n", "every text is empty"),
    "bad.parquet": (b"no parquet", "as Parquet"),
    "bad.csv.gz": (b"no gzip", "cannot read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(fs.DataError, match=message):
        load(str(tmp_path / name))


def test_near_names_are_suggested(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", ROWS)
    with pytest.raises(fs.DataError, match=r"did you mean train.csv"):
        load(str(tmp_path / "trian.csv"))
    with pytest.raises(fs.DataError, match="did you mean 'label'"):
        load(str(path), label="lable")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(fs.DataError, match="is a folder"):
        load(str(tmp_path / "folder.csv"))


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    train = load(str(write(tmp_path / "a.jsonl", ROWS)))
    assert label_names(train, []) == ["neg", "pos"]
    other = load(str(write(tmp_path / "b.jsonl", [{"text": "x", "label": "so-so"}])))
    with pytest.raises(fs.DataError, match=r"has labels that .* has not: so-so"):
        label_names(train, [other])
    one = load(str(write(tmp_path / "c.jsonl", ROWS[:1])))
    with pytest.raises(fs.DataError, match="every example has the label 'pos'"):
        label_names(one, [])
    mixed = load(str(write(tmp_path / "d.jsonl", [*ROWS, {"text": "x", "label": 3}])))
    numbers = load(str(write(tmp_path / "e.jsonl", [{"text": "x", "label": 3}])))
    assert label_names(mixed, [numbers]) == ["3", "neg", "pos"]
    assert numbers.labels == ["3"]


def test_a_hub_name_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code; only the name is led to a local file, by the library's own means."""
    import datasets

    real = datasets.load_dataset
    file = str(write(tmp_path / "a.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 0}]))

    def local(name: str, split: str) -> Any:
        assert (name, split) == ("some/set", "test")
        found = real("json", data_files={split: file}, split=split, cache_dir=str(tmp_path))
        return found.cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))

    monkeypatch.setattr(datasets, "load_dataset", local)
    assert load("some/set:test").labels == ["pos", "neg"]
    code = "from finesieve.cli.data.table import load; load('nobody/no-such-set')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "DataError: no file nobody/no-such-set, and it could not be loaded" in last


# ---- the built-in dataset


def test_docstrings(docstring_cache: Path) -> None:
    train, test = docstrings.rows("train"), docstrings.rows("test")
    assert len(train) > 900
    assert len(test) > 60
    assert {r["label"] for r in train} == set(docstrings.LIBRARIES)
    assert not {r["text"] for r in train} & {r["text"] for r in test}
    for row in train:
        for name in ("torch", "numpy", "scipy", "sklearn", "sympy", "networkx", "huggingface"):
            assert name not in row["text"].lower()
    assert len(list(docstring_cache.glob("*.jsonl.gz"))) == 1
    two = docstrings.rows("sympy+scipy/test")
    assert two == [r for r in test if r["label"] in ("sympy", "scipy")]
    assert {r["label"] for r in docstrings.rows("sympy+scipy")} == {"sympy", "scipy"}
    for part in ("dev", "sympy", "sympy+numpy", "sympy+scipy/dev"):
        with pytest.raises(fs.DataError, match="docstrings has no part"):
            docstrings.rows(part)


def test_masking() -> None:
    text = docstrings.masked("A PyTorch  wrapper for `np.array`;\nsee scikit-learn, torchvision.")
    assert text == "A _ wrapper for `_.array`; see _, _."
    assert len(docstrings.masked("word " * 500)) <= 600


def test_docstrings_parse_and_never_import(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        '"""Module."""\nraise SystemExit(1)\ndef f():\n    """F."""\n    x = """no"""\n'
        'class C:\n    """C."""\n    async def g(self):\n        """G."""\n'
        'if True:\n    def h():\n        """H."""\n'
    )
    assert docstrings._docstrings(str(tmp_path / "m.py")) == ["Module.", "F.", "C.", "G.", "H."]
    (tmp_path / "bad.py").write_text('"""x"""\ndef f(:\n')
    assert docstrings._docstrings(str(tmp_path / "bad.py")) == []
