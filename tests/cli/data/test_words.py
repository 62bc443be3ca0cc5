"""Words with tags in files of several kinds, and the names of labels that are numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finesieve.cli.data.names import read_names
from finesieve.cli.data.table import Table, load
from finesieve.errors import DataError

TOKENS, TAGS = [["Tom", "met", "Ann"], ["Yes"]], [("B-PER", "O", "B-PER"), ("O",)]


def table(path: Path, content: str, **more: Any) -> Table:
    path.write_text(content, encoding="utf-8")
    return load(str(path), task="token-labels", **more)


CONLL = """\
-DOCSTART- -X- -X- O

Tom NNP I-NP B-PER
met VBD I-VP O
Ann NNP I-NP B-PER

Yes UH I-INTJ O
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", CONLL),
        ("a.txt", CONLL),
        ("a.bio", "Tom\tB-PER\nmet\tO\nAnn\tB-PER\n\n\nYes\tO"),
        ("a.csv", "tokens,ner_tags\nTom met Ann,B-PER O B-PER\nYes,O\n"),
        (
            "a.csv",  # as pandas writes lists
            "tokens,ner_tags\n\"['Tom', 'met', 'Ann']\",\"['B-PER', 'O', 'B-PER']\"\n"
            "['Yes'],['O']\n",
        ),
        (
            "a.json",
            json.dumps(
                [
                    {"id": 0, "words": TOKENS[0], "pos_tags": [1, 2, 1], "tags": TAGS[0]},
                    {"id": 1, "words": TOKENS[1], "pos_tags": [3], "tags": TAGS[1]},
                ]
            ),
        ),
    ],
)
def test_files_of_words_and_tags(tmp_path: Path, name: str, content: str) -> None:
    found = table(tmp_path / name, content)
    assert found.words == [tuple(words) for words in TOKENS]
    assert found.labels == TAGS
    assert found.texts == ["Tom met Ann", "Yes"]
    assert found.take([1]).words == [("Yes",)]


def test_a_word_without_a_tag_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: 'met' is a word without a tag"):
        table(tmp_path / "a.conll", "Tom B-PER\nmet\n")


def test_spaces_in_words_are_part_of_them(tmp_path: Path) -> None:
    """Also for the digest: else these two would be the same data."""
    one, two = (
        table(tmp_path / "a.json", json.dumps([{"tokens": t, "tags": ["O", "B-X"]}]))
        for t in (["a b", "c"], ["a", "b c"])
    )
    assert one.texts == two.texts
    assert one.digest != two.digest


def with_names() -> Any:
    datasets = pytest.importorskip("datasets")
    kind = getattr(datasets, "List", datasets.Sequence)
    tags = kind(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": kind(datasets.Value("string")), "ner_tags": tags})
    rows = {"tokens": TOKENS, "ner_tags": [[1, 0, 1], [0]]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_parquet_that_datasets_wrote_has_the_names_of_its_numbers(tmp_path: Path) -> None:
    with_names().to_parquet(tmp_path / "a.parquet")
    assert load(str(tmp_path / "a.parquet"), task="token-labels").labels == TAGS


def test_so_do_datasets_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_names()
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: found)
    monkeypatch.setattr("finesieve.cli.network.no_network", lambda: False)
    assert load("some/set:train", task="token-labels").labels == TAGS


@pytest.mark.parametrize(
    "content",
    [
        "O\nB-PER\n",
        '["O", "B-PER"]',
        '{"label_names": ["O", "B-PER"]}',
        '{"model_type": "bert", "id2label": {"1": "B-PER", "0": "O"}}',
    ],
)
def test_names_come_from_files_of_several_kinds(tmp_path: Path, content: str) -> None:
    (tmp_path / "names").write_text(content)
    assert read_names(str(tmp_path / "names")) == ["O", "B-PER"]
    rows = [{"tokens": TOKENS[0], "tags": [1, 0, 1]}, {"tokens": TOKENS[1], "tags": [0]}]
    given = str(tmp_path / "names")
    assert table(tmp_path / "a.json", json.dumps(rows), label_names=given).labels == TAGS
    rows[1]["tags"] = ["O"]  # names and numbers in one file
    with pytest.raises(DataError, match="'1', which is none of the 2 names"):
        table(tmp_path / "a.json", json.dumps(rows), label_names=given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("O\nO\n", "'O' twice"),
        ("O\n", "1 names"),
        ('{"a": 1}', "JSON without a list of names"),
        ('["O", 1]', "JSON without a list of names"),
        ("[", "cannot read"),
        ('{"id2label": {"0": "O", "2": "X"}}', "JSON without a list of names"),
    ],
)
def test_files_without_names_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "names").write_text(content)
    with pytest.raises(DataError, match=message):
        read_names(str(tmp_path / "names"))
