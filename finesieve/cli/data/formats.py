"""JSON, fastText, Parquet and Arrow files become rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from finesieve.cli.data.names import names_of_lists, put_names
from finesieve.errors import DataError

Row = dict[str, Any]
_PREFIX = "__label__"
_TAG = re.compile(r"O|[BIESLU]-\S+")
_DOCUMENT = "-DOCSTART-"


def read_json(name: str, content: str) -> list[Row]:
    """Return the rows of JSON lines, of one array of objects, or of one object of columns.

    Raises:
        DataError: with the line where the JSON breaks, or with what came instead of objects.
    """
    start = content.lstrip()
    if start.startswith("["):
        return _array(name, content)
    rows: list[Row] = []
    # Not splitlines(): it also cuts at separators that JSON allows inside strings.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        row = _parsed(f"{name}, line {number}", line, start)
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, line {number}: a {type(row).__name__}; expected one JSON object a line"
            )
        rows.append(row)
    if len(rows) == 1 and rows[0] and all(isinstance(v, (dict, list)) for v in rows[0].values()):
        return _columns(name, rows[0])
    return rows


def _parsed(place: str, text: str, start: str = "") -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = ""
        if text.strip() == "{":  # an object over many lines
            hint = "; expected one JSON object a line, or one array of objects"
        elif start.startswith("["):
            hint = " (a JSON array? expected one object a line, or a whole array)"
        raise DataError(f"{place}: broken JSON: {error}{hint}") from None
    except (ValueError, RecursionError) as error:  # endless digits, endless nesting
        raise DataError(f"{place}: unreadable JSON: {error}") from None


def _array(name: str, content: str) -> list[Row]:
    rows = _parsed(name, content, "[")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"{name}, item {i} of the array is a {type(row).__name__}; expected objects, "
                'e.g. {"text": "...", "label": "..."}'
            )
    return list(rows)


def _columns(name: str, whole: Row) -> list[Row]:
    """Returns the rows of one object that holds all of them: columns as `DataFrame.to_json` writes
    them by default.

    Raises:
        DataError: for an object of another form.
    """
    sizes = {len(v) for v in whole.values()}
    if len(sizes) == 1:
        if all(isinstance(v, dict) and v.keys() == _first(whole).keys() for v in whole.values()):
            return [{c: whole[c][i] for c in whole} for i in _first(whole)]
        if len(whole) > 1 and all(isinstance(v, list) for v in whole.values()):
            return [
                dict(zip(whole, values, strict=True))
                for values in zip(*whole.values(), strict=True)
            ]
        only = _first(whole)
        if isinstance(only, list) and all(isinstance(row, dict) for row in only):
            return list(only)
    raise DataError(
        f"{name} is one JSON object with {', '.join(map(repr, whole))}; expected an object an "
        "example, one a line: with pandas, to_json(path, orient='records', lines=True)"
    )


def _first(whole: Row) -> Any:
    return next(iter(whole.values()))


def read_fasttext(name: str, content: str) -> list[Row]:
    """Return the rows of a file for fastText: `__label__NAME`, then the text, in each line."""
    rows: list[Row] = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        words = line.split()
        labels = [w for w in words if w.startswith(_PREFIX)]
        if not labels:
            raise DataError(
                f"{name}, line {number}: no label ({_PREFIX}...); expected one class an "
                "example, or with --task multi-label one and more"
            )
        text = line
        for label in labels:
            text = text.replace(label, "", 1)
        names = [label.removeprefix(_PREFIX) for label in labels]
        rows.append({"text": text.strip(), "label": names if len(names) > 1 else names[0]})
    return rows


def is_fasttext(content: str) -> bool:
    """Returns whether the first line that is not blank has a label as fastText marks it."""
    line = content.lstrip().split("\n", 1)[0]
    return line.startswith(_PREFIX) or f" {_PREFIX}" in line


def is_conll(content: str) -> bool:
    """Returns whether a text has a word a line, with a tag as the last of its columns: O, B-...,
    I-... and the like."""
    lines = content.split("\n", 200)[:200]
    cells = [x.split() for x in lines if x.strip() and not x.startswith((_DOCUMENT, "#"))]
    counts = {len(line) for line in cells}
    return len(counts) == 1 and counts != {1} and all(_TAG.fullmatch(x[-1]) for x in cells)


def read_conll(name: str, content: str) -> list[Row]:
    """Return the sentences of a file with a word a line, as of the shared task of CoNLL 2003.

    A blank line ends a sentence. The first column is the word and the last one its tag; columns are
    separated by tabs, or else by spaces. Lines that begin with -DOCSTART- say that a document
    begins.

    Raises:
        DataError: with the line that has no tag.
    """
    rows: list[Row] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*content.split("\n"), ""], 1):
        if not line.strip() or line.startswith(_DOCUMENT):
            if words:
                rows.append({"tokens": words, "tags": tags})
            words, tags = [], []
            continue
        cells = line.strip().split("\t") if "\t" in line.strip() else line.split()
        if len(cells) < 2:
            raise DataError(
                f"{name}, line {number}: {line.strip()!r:.40} is a word without a tag; expected "
                "columns with a space or tab between them, the word first and its tag last"
            )
        words.append(cells[0].strip())
        tags.append(cells[-1].strip())
    return rows


def read_parquet(path: Path) -> list[Row]:
    """Return the rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        return put_names(list(table.to_pylist()), names_of_lists(table.schema.metadata))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path} as Parquet: {error}") from None


def read_arrow(path: Path) -> list[Row]:
    """Return the rows of an Arrow file: Feather, or a part of what `save_to_disk` writes."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                return list(pa.ipc.open_file(source).read_all().to_pylist())
            except pa.ArrowInvalid:
                source.seek(0)
                return list(pa.ipc.open_stream(source).read_all().to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path} as Arrow: {error}") from None
