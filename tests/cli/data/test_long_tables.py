"""Long tables are read row by row, with the very result of the reader of whole files."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import pytest

from finesieve.cli.data import streaming
from finesieve.cli.data.files import read_file
from finesieve.cli.data.long_tables import Otherwise, read_long
from finesieve.cli.data.streaming import lean_rows
from finesieve.cli.data.table import table_of
from finesieve.errors import DataError

TEXTS = ("good", "bad, really", 'he said "no"', "it's; so", "a\tb", "two\nlines", "", "NA", "3.5")


def table(n: int = 30, texts: tuple[str, ...] = TEXTS) -> list[list[str]]:
    return [[f"{texts[i % len(texts)]} {i}", "ab"[i % 2]] for i in range(n)]


def written(rows: list[list[str]], **how: Any) -> str:
    target = io.StringIO(newline="")
    csv.writer(target, **how).writerows([["text", "label"], *rows])
    return target.getvalue()


def saved(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def both(path: Path) -> None:
    rows, notes = read_long(path)
    assert (list(rows), notes) == read_file(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_library_writes(tmp_path: Path, delimiter: str, quoting: Any, end: str) -> None:
    content = written(table(), delimiter=delimiter, quoting=quoting, lineterminator=end)
    both(saved(tmp_path / "a.csv", content))
    both(saved(tmp_path / "b.csv", content, "utf-8-sig"))


@pytest.mark.parametrize(
    "content",
    [
        # Quotes that are characters of the texts, as in tables of this field.
        "text\tlabel\n" + "".join(f'"so" {i} he said\t{i % 2}\n' for i in range(30)),
        # Some cells are quoted that need not be.
        "text,label\n" + "".join(f'"{i}",a\n{i},"b"\n' for i in range(30)),
        "text,text,label\n" + "a,b,c\n" * 30,
        '"text","label"\n' + "".join(f'"{i}","text {i}","a"\n' for i in range(30)),  # R's
        "text,label\n\n" + "a,b\n\r\n" * 30,
        # Lines of a text that look like rows, but for their values.
        'text,label\n"one, two\nthree, four\nfive",a\n' + "x,a\ny,b\n" * 20,
    ],
)
def test_what_is_written_otherwise_by_hand(tmp_path: Path, content: str) -> None:
    name = "a.tsv" if "\t" in content else "a.csv"
    both(saved(tmp_path / name, content))


@pytest.mark.parametrize(
    "content",
    [
        written(table(30), quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\"),
        "sep=;\ntext;label\n" + "a;b\n" * 30,
        "text,label\n" + "a,b\n" * 5,  # few rows
        "text,label\n" + "a,\\N\n" * 30,  # MySQL's
        "text, label\n" + 'a, "b, c"\n' * 30,
        "text,label\n" + "a,b\n" * 30 + "a,b,c\n",
        "text\n" + "a,b\n" * 30,
        'text,label\n"a,pos\n' + "b,neg\n" * 30 + 'c",pos\n' + "d,neg\n" * 30,  # swallows rows
        'text,label\n"a",pos\n"b,neg\n' * 30,
        "text,label\r" + "a,b\r" * 30,
        "text,label\n" + 'he said "no",a\n' * 30,  # the user is told of these marks
    ],
)
def test_what_only_the_whole_file_tells_is_left_to_its_reader(tmp_path: Path, content: str) -> None:
    path = saved(tmp_path / "a.csv", content)
    with pytest.raises(Otherwise):
        list(read_long(path)[0])


def test_other_encodings_and_packed_files_are_left_to_it(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le"):
        with pytest.raises(Otherwise):
            read_long(saved(tmp_path / "a.csv", written(table()), encoding))
    path = tmp_path / "b.csv"
    path.write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(Otherwise):
        read_long(path)
    path.write_bytes(b"<!doctype html><p>")
    with pytest.raises(DataError, match="web page"):
        read_long(path)


def test_chance_finds_no_table_that_is_read_otherwise(tmp_path: Path) -> None:
    dice, long = random.Random(0), 0
    words = [
        *TEXTS,
        '"quoted"',
        '5" disk',
        "a\\b",
        "\\N",
        '\\"',
        "x\r\ny",
        '"',
        ' "a"',
        "b,neg\nc,pos",
    ]
    for _ in range(400):
        some = tuple(dice.sample(words, dice.randint(1, 5)))
        delimiter, rows = dice.choice(",,;\t|"), table(dice.choice([5, 25, 40]), some)
        if dice.random() < 0.6:
            quoting = dice.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
            content = written(rows, delimiter=delimiter, quoting=quoting)
        else:  # by hand, so not always a table
            lines = [["text", "label"], *rows]
            for line in lines:
                if dice.random() < 0.3:
                    line[0] = f'"{line[0]}"'
            content = "\n".join(delimiter.join(line) for line in lines)
        path = saved(tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv"), content)
        try:
            rows_, notes = read_long(path)
            found = list(rows_), notes
        except (Otherwise, DataError):
            continue
        long += 1
        assert found == read_file(path), content
    assert long > 150


def test_a_long_table_is_not_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 10)
    path = saved(
        tmp_path / "a.csv", "text,label,more\n" + "".join(f"t{i},a,x\n" for i in range(50))
    )
    whole = read_file(path)[0]
    monkeypatch.setattr(Path, "read_bytes", None)
    rows, _ = lean_rows(str(path), None, None, None)
    assert rows[:10] == whole[:10]
    assert rows[10:] == [{k: row[k] for k in ("text", "label")} for row in whole[10:]]


def test_before_a_table_is_read_as_a_whole_it_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.csv", "sep=;\ntext;label\n" + "a;b\n" * 30)

    def refuse() -> None:
        raise DataError("too large")

    with pytest.raises(DataError, match="too large"):
        lean_rows(str(path), None, None, None, refuse)
    saved(path, "text;label\n" + "a;b\n" * 30)
    assert len(lean_rows(str(path), None, None, None, refuse)[0]) == 30


def test_whether_a_row_is_blank_is_judged_by_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_FIRST", 10)
    content = "text,label,more\n" + "t,a,x\n" * 30 + ",,\n"
    source = str(saved(tmp_path / "a.csv", content))
    table = table_of(source, *lean_rows(source, None, None, None), None, None, None, True, "refuse")
    assert any("without anything in them dropped" in note for note in table.notes)
    saved(tmp_path / "a.csv", content + ",,x\n")
    rows = lean_rows(source, None, None, None)
    with pytest.raises(DataError, match="have no 'label'"):
        table_of(source, *rows, None, None, None, True, "refuse")
