"""Files as programs and people write them: read as they were meant, or refused with the remedy.

The files are written as pandas, Excel, Spark, MySQL and R write them, from the same few texts.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import finesieve as fs
from finesieve.cli.data.table import Table, label_names, load

TEXTS = [
    "fine film",
    "dull, long; and slow",
    'he said "no" twice',
    '"All of it in quotes."',
    "two\nlines, the second with a comma",
    'a 5" disk',
    "a\ttab",
]
TAB = "\t"
LABELS = ["pos", "neg", "neg", "pos", "neg", "pos", "neg"]


def table(path: Path, content: str | bytes, name: str = "train.csv", **more: Any) -> Table:
    file = path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(str(file), **more)


def refusal(path: Path, content: str | bytes, name: str = "train.csv") -> str:
    with pytest.raises(fs.DataError) as caught:
        table(path, content, name)
    return str(caught.value)


def written(texts: Sequence[str] = TEXTS, **how: Any) -> str:
    out = io.StringIO()
    rows = [["text", "label"], *zip(texts, LABELS, strict=False)]
    csv.writer(out, **how).writerows(rows)
    return out.getvalue()


# ---- quotation marks


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_library_writes_it(tmp_path: Path, quoting: Any, delimiter: str, end: str) -> None:
    """pandas, and Python's own module; in a .tsv, too."""
    content = written(delimiter=delimiter, quoting=quoting, lineterminator=end)
    read = table(tmp_path, content, "train.tsv" if delimiter == "\t" else "train.csv")
    assert read.texts == TEXTS
    assert read.labels == LABELS
    assert read.notes == []


def test_excel_quotes_commas_in_a_table_with_tabs(tmp_path: Path) -> None:
    content = 'text\tlabel\r\n"dull, long"\tneg\r\n"said ""no"""\tneg\r\nfine\tpos\r\n'
    read = table(tmp_path, content, "Unicode Text.txt")
    assert read.texts == ["dull, long", 'said "no"', "fine"]


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:4]])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_spark_quotes_by_a_backslash(tmp_path: Path, texts: list[str], delimiter: str) -> None:
    def cell(text: str) -> str:
        marks = '"' in text or delimiter in text or "\n" in text
        return '"' + text.replace('"', '\\"') + '"' if marks else text

    texts = [*texts, r'C:\new "dir"']
    lines = [f"{cell(t)}{delimiter}pos\n" for t in texts]
    read = table(
        tmp_path,
        f"text{delimiter}label\n" + "".join(lines),
        f"a.{'tsv' if delimiter == TAB else 'csv'}",
    )
    assert read.texts == texts


def test_a_competition_quotes_all_texts_by_backslashes(tmp_path: Path) -> None:
    """As the film reviews of a well-known beginners' competition are."""
    content = 'id\tsentiment\treview\n"1_8"\t1\t"\\"Fine\\" film, 5\\" of it"\n"2_1"\t0\t"Dull"\n'
    read = table(tmp_path, content, "labeledTrainData.tsv")
    assert read.texts == ['"Fine" film, 5" of it', "Dull"]
    assert read.labels == [1, 0]


def test_mysql_escapes_without_quotes(tmp_path: Path) -> None:
    content = "text\tlabel\na\\\ttab\tpos\ntwo\\\nlines\tneg\nback\\\\slash\tneg\n\\N\tpos\n"
    read = table(tmp_path, content, "train.tsv")
    assert read.texts == ["a\ttab", "two\nlines", "back\\slash"]
    assert "1 of 4 rows with an empty text" in read.notes[0]


def test_r_writes_row_names_without_a_header(tmp_path: Path) -> None:
    content = '"text" "label"\n"1" "said \\"no\\"" "neg"\n"2" "fine" "pos"\n'.replace(" ", "\t", 1)
    content = content.replace('"1" ', '"1"\t').replace('"2" ', '"2"\t')
    content = content.replace('" "neg', '"\t"neg').replace('" "pos', '"\t"pos')
    read = table(tmp_path, content, "train.tsv")
    assert read.texts == ['said "no"', "fine"]
    assert read.labels == ["neg", "pos"]
    assert "row names" in read.notes[0]


def test_quotes_that_belong_to_the_texts(tmp_path: Path) -> None:
    """As `print(text, label, sep=",")` writes them: two texts begin with a mark, none ends so."""
    content = 'text,label\n"Yes he said,pos\nfine,neg\n"No" he said,pos\n'
    read = table(tmp_path, content)
    assert read.texts == ['"Yes he said', "fine", '"No" he said']
    assert "read as characters of the texts" in read.notes[0]
    content = 'text,label\n"All of it",pos\na 5" disk,neg\n'
    assert table(tmp_path, content).texts == ['"All of it"', 'a 5" disk']
    content = 'text,label\n"All, of it",pos\na 5" disk,neg\n'  # no other reading fits
    assert table(tmp_path, content).texts == ["All, of it", 'a 5" disk']
    # A mark at the end of a later text pairs up with the first one, and rows would be lost.
    content = 'text,label\nso,neg\n"Yes he said,pos\nfine,neg\nshe said "yes",pos\nwell "no",neg\n'
    assert table(tmp_path, content).texts[1:3] == ['"Yes he said', "fine"]
    pair = 'text,label\nso,neg\nsee,pos\n"Yes,pos\nfine,neg\nyes",pos\n'
    read = table(tmp_path, pair)
    assert read.texts == ["so", "see", '"Yes', "fine", 'yes"']
    assert "line 4: a quotation mark opens a text that would go on over whole rows" in read.notes[0]


def test_rows_that_a_quote_swallows_are_refused_if_no_reading_fits(tmp_path: Path) -> None:
    content = 'text,label\nso,neg\nsee,pos\n"Yes,pos\nfine,neg\nyes",pos\n"one, two",neg\n'
    message = refusal(tmp_path, content)
    assert "line 4: a quotation mark opens a text that would go on over whole rows" in message
    assert "write the file with a library" in message


def test_a_text_of_several_lines_is_not_taken_for_rows(tmp_path: Path) -> None:
    content = 'text,label\n"one, two\nthree",pos\nfour,neg\nfive,pos\nsix,neg\n'
    assert table(tmp_path, content).texts[0] == "one, two\nthree"


@pytest.mark.parametrize(
    "content",
    [
        'label, text\npos, "a, b"\nneg, "c ""d"""\n',
        "label,text\npos,'a, b'\nneg,'c \"d\"'\n",
    ],
)
def test_spaces_before_quotes_and_single_ones(tmp_path: Path, content: str) -> None:
    assert table(tmp_path, content).texts == ["a, b", 'c "d"']


# ---- headers, delimiters, columns


def test_a_line_for_excel_and_columns_of_one_name(tmp_path: Path) -> None:
    assert table(tmp_path, "sep=;\ntext;label\na, b;pos\nc;neg\n").texts == ["a, b", "c"]
    assert table(tmp_path, '"text, as typed";label\na, b;pos\nc;neg\n').texts == ["a, b", "c"]
    read = table(tmp_path, "text,label,label\na,pos,7\nb,neg,8\n")
    assert read.labels == ["pos", "neg"]
    assert "2 columns are named 'label'; that name stands for the first" in read.notes[0]
    assert table(tmp_path, "text,label,label\na,pos,7\nb,neg,8\n", label="label.1").labels == [7, 8]
    # Exports of spreadsheets end in columns and rows without anything.
    read = table(tmp_path, "v1,v2,,\nham,hello,,\nspam,win,,\n,,,\n,,,\n", label="v1", text="v2")
    assert read.texts == ["hello", "win"]
    assert read.notes == [f"{read.name}: 2 of 4 rows without anything in them dropped"]


def test_the_columns_taken_are_told(tmp_path: Path) -> None:
    content = "text,question,answer,label\none,q,a,pos\ntwo,q,a,neg\n"
    read = table(tmp_path, content)
    assert read.texts == ["one", "two"]
    assert read.pairs is None
    assert read.taken.endswith(": text 'text', label 'label'; not used: 'question', 'answer'")
    read = table(tmp_path, "question,answer,label\nq,a,pos\nq,a,neg\n")
    assert "text 'question', second text 'answer'" in read.taken


def test_a_column_may_come_late(tmp_path: Path) -> None:
    content = '{"text": "a"}\n{"text": "b", "label": 1}\n{"text": "c", "label": 0}\n'
    assert "1 of 3 examples have no 'label' (rows 0" in refusal(tmp_path, content, "a.jsonl")
    assert table(tmp_path, content, "a.jsonl", unlabelled="drop").rows == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3,first title here\n4,second title here\n", "looks like a row: put a header line above"),
        ("I feel quite well today;joy\nso sad;sadness\n", "put a header line above"),
        ("text::label\na::1\n", "the whole first line: expected a comma, semicolon, tab or |"),
        ("text,label\na,b,1\n" * 2, "3 cells, but the header has 2 .* in double quotes"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: str, message: str) -> None:
    import re

    assert re.search(message, refusal(tmp_path, content))


# ---- labels


def test_what_marks_a_missing_label_is_asked_about(tmp_path: Path) -> None:
    for odd, more in (("nan", ""), ("<NA>", ""), ("-", ""), ("-1", ""), ("NULL", "")):
        names = [0, 1, 2] if odd == "-1" else ["entailment", "neutral", "no"]
        rows = "".join(f"a{i},b,{odd if i == 5 else names[i % 3]}\n" for i in range(12))
        content = "sentence1,sentence2,gold_label\n" + rows + more
        message = refusal(tmp_path, content)
        assert "1 of 12 examples have the label" in message
        assert "--unlabelled drop" in message
        read = table(tmp_path, content, unlabelled="drop")
        assert label_names(read, []) == sorted(names)
        assert 5 not in read.rows
        assert "dropped" in read.notes[0]
        assert len(label_names(table(tmp_path, content, unlabelled="keep"), [])) == 4


@pytest.mark.parametrize(
    "names", [["-1", "1"], ["-1", "0", "1"], ["+", "-"], ["-2", "-1", "0", "1"]]
)
def test_opinions_are_no_missing_labels(tmp_path: Path, names: list[str]) -> None:
    content = "text,label\n" + "".join(f"t{i},{names[i % len(names)]}\n" for i in range(12))
    assert len(label_names(table(tmp_path, content), [])) == len(names)


def test_classes_that_differ_in_case_are_told_and_lists_refused(tmp_path: Path) -> None:
    read = table(tmp_path, "text,label\na,Pos\nb,pos\nc,neg\n")
    assert "'Pos', 'pos' are different classes" in read.notes[0]
    lists = "text,label\na,\"['joy', 'fear']\"\nb,['joy']\n"
    assert "holds lists like ['joy'" in refusal(tmp_path, lists)


def test_rows_of_the_hub_without_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    kind = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    rows = {"text": ["a", "b", "c"], "label": [0, -1, 1]}
    made = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: made)
    with pytest.raises(fs.DataError, match=r"1 of 3 examples have no 'label' \(rows 1, from 0\)"):
        load("some/set")
    assert load("some/set", unlabelled="drop").labels == ["no", "yes"]


# ---- encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    content = "text\tlabel\r\ncafé – “so”\tpos\r\nfine\tneg\r\n"
    read = table(tmp_path, content.encode(encoding), "train.tsv")
    assert read.texts == ["café – “so”", "fine"]


def test_the_advice_for_western_windows_works(tmp_path: Path) -> None:
    content = "text,label\nit’s a café – “so” naïve,pos\nfine,neg\n"
    message = refusal(tmp_path, content.encode("windows-1252"), "in.csv")
    advice = message.split("`")[1].replace("IN", str(tmp_path / "in.csv"))
    subprocess.run(advice.replace("OUT", str(tmp_path / "out.csv")), shell=True, check=True)
    assert load(str(tmp_path / "out.csv")).texts[0] == "it’s a café – “so” naïve"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1251", "это очень хороший фильм"),
        ("gb18030", "这部电影非常好看"),
        ("cp932", "この映画はとても面白い"),
    ],
)
def test_other_alphabets_are_not_taken_for_western(
    tmp_path: Path, encoding: str, text: str
) -> None:
    message = refusal(tmp_path, f"text,label\n{text},pos\nx,neg\n".encode(encoding))
    assert encoding in message
    assert "windows-1252" not in message


def test_damage_is_no_other_encoding(tmp_path: Path) -> None:
    content = ("text,label\n" + "café für alle,1\nno,0\n" * 9).encode() + b"caf\xe9,1\n"
    message = refusal(tmp_path, content, "in.csv")
    assert "line 20: byte 0xe9" in message
    assert "damaged" in message
    assert "windows-1252" not in message
    twice = "text,label\n" + "it’s a café,1\nno,0\n".encode().decode("cp1252")
    assert "1 texts have letters like" in table(tmp_path, twice).notes[0]


# ---- packed files and other kinds


def test_packed_files(tmp_path: Path) -> None:
    raw = written().encode()
    for name, content in (
        ("a.csv.gz", gzip.compress(raw)),
        ("a.csv", gzip.compress(raw)),  # a download that lost its ending
        ("a.csv.bz2", bz2.compress(raw)),
        ("a.csv.xz", lzma.compress(raw)),
    ):
        assert table(tmp_path, content, name).texts == TEXTS
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data/train.csv", raw)
        archive.writestr("__MACOSX/data/._train.csv", b"x")
        archive.writestr("README.md", b"x")
    assert table(tmp_path, out.getvalue(), "a.csv.zip").texts == TEXTS
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("data/test.csv", raw)
    assert "holds 2 files (data/train.csv, data/test.csv)" in refusal(
        tmp_path, out.getvalue(), "a.zip"
    )


def test_spreadsheets_and_what_is_no_table_are_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<x/>")
    for name in ("a.xlsx", "renamed.csv"):
        assert "save it as 'CSV UTF-8'" in refusal(tmp_path, out.getvalue(), name)
    old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    assert "save it as 'CSV UTF-8'" in refusal(tmp_path, old, "a.xls")
    page = "<!DOCTYPE html>\n<html><body>Sign in</body></html>"
    assert "is a web page" in refusal(tmp_path, page)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    assert "git lfs pull" in refusal(tmp_path, pointer)
    assert "unzstd" in refusal(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(20), "a.jsonl.zst")
    assert "give it the ending .parquet" in refusal(tmp_path, b"PAR1" + bytes(20), "a.csv")
    assert "to_parquet(path)" in refusal(tmp_path, b"\x80\x04K\x05.", "a.pkl")


def test_fasttext_and_json_of_other_shapes(tmp_path: Path) -> None:
    content = "__label__pos fine film\n__label__neg dull, long\n"
    for name in ("a.txt", "a.train"):
        read = table(tmp_path, content, name)
        assert (read.texts, read.labels) == (["fine film", "dull, long"], ["pos", "neg"])
    message = refusal(tmp_path, "__label__a __label__b fine\n", "a.txt")
    assert "example 0: 'label' is a list" in message
    assert "--task multi-label" in message
    rows = [{"text": "fine", "label": "pos"}, {"text": "dull", "label": "neg"}]
    columns = {c: {str(i): r[c] for i, r in enumerate(rows)} for c in rows[0]}  # pandas
    lists = {c: [r[c] for r in rows] for c in rows[0]}
    for whole in (rows, columns, lists, {"data": rows}):
        for indent in (None, 1):
            if indent is None or whole is rows:
                read = table(tmp_path, json.dumps(whole, indent=indent), "a.json")
                assert (read.texts, read.labels) == (["fine", "dull"], ["pos", "neg"])
    assert "lines=True" in refusal(
        tmp_path, '{"columns": ["text"], "data": [["a"], ["b"]]}', "a.json"
    )


def test_arrow_files_and_saved_datasets(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.feather
    from datasets import Dataset

    rows = [{"text": "fine", "label": 1}, {"text": "dull", "label": 0}]
    pyarrow.feather.write_feather(pa.Table.from_pylist(rows), tmp_path / "a.feather")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.feather", *(tmp_path / "saved").glob("*.arrow")):
        assert load(str(path)).texts == ["fine", "dull"]
    with pytest.raises(fs.DataError, match=r"is a folder.*it holds data-00000.*to_parquet"):
        load(str(tmp_path / "saved"))
    (tmp_path / "bad.arrow").write_bytes(b"x")
    with pytest.raises(fs.DataError, match="as Arrow"):
        load(str(tmp_path / "bad.arrow"))


def test_names_of_the_same_ending_are_suggested(tmp_path: Path) -> None:
    for name in ("reviews.csv", "train.json", "notes.md"):
        (tmp_path / name).write_text("x")
    with pytest.raises(fs.DataError, match=r"no file .*train.csv; did you mean train.json"):
        load(str(tmp_path / "train.csv"))
    with pytest.raises(fs.DataError, match=r"no file .*data.csv; there is reviews.csv$"):
        load(str(tmp_path / "data.csv"))
    with pytest.raises(fs.DataError, match=r"there is no folder .*nowhere"):
        load(str(tmp_path / "nowhere" / "data.csv"))
