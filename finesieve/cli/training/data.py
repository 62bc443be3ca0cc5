"""Reading labelled text: CSV, TSV, JSON lines (also .gz), Parquet, a hub dataset, `docstrings`.

Everything is checked here, at the door: after `load` and `label_ids` a run cannot fail on data.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finesieve.errors import DataError

TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "headline",
    "query",
    "utterance",
    "question",
    "title",
    "comment",
    "tweet",
    "docstring",
)
PAIRS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("text1", "text2"),
)
LABELS = ("label", "labels", "class", "category", "intent", "target", "sentiment")
_ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet")

_SURROGATE = re.compile("[\ud800-\udfff]")

Label = int | str
Row = dict[str, Any]


@dataclass
class Table:
    """Labelled examples. pairs is None for single texts. rows: each one's row in the source."""

    name: str
    texts: list[str]
    pairs: list[str] | None
    labels: list[Label]
    rows: list[int]
    columns: tuple[str | None, str | None, str | None] = (None, None, None)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Sequence[int], name: str | None = None) -> Table:
        return Table(
            name or self.name,
            [self.texts[i] for i in index],
            [self.pairs[i] for i in index] if self.pairs is not None else None,
            [self.labels[i] for i in index],
            [self.rows[i] for i in index],
            self.columns,
        )


def load(
    source: str,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    split: str = "train",
) -> Table:
    """Read and check one source; `DataError` says what is wrong and where.

    source: a file, a hub dataset id ("name" or "name:split"), or "docstrings" /
    "docstrings:train" / "docstrings:test".
    text, text_pair, label: column names; found by their usual names if not given.
    """
    rows = rows_of(source, split)
    return table_of(source, rows, text, text_pair, label, keep_empty)


def rows_of(source: str, split: str) -> list[Row]:
    """The rows of a source as they are, a dict each; `DataError` if they cannot be read."""
    if source.split(":")[0] == "docstrings" and not Path(source).exists():
        from finesieve.cli.training.docstrings import rows as docstring_rows

        part = source.split(":")[1] if ":" in source else split
        rows = docstring_rows(part)
    elif Path(source).exists() or source.lower().removesuffix(".gz").endswith(_ENDINGS):
        rows = _read_file(Path(source))
    else:
        rows = _read_hub(source, split)
    if not rows:
        raise DataError(f"{source} is empty: expected a row per example")
    return rows


def table_of(
    source: str,
    rows: list[Row],
    text: str | None,
    text_pair: str | None,
    label: str | None,
    keep_empty: bool,
) -> Table:
    """Rows that were read already, checked; see `load`."""
    columns = _columns(source, rows, text, text_pair, label)
    return _table(source, rows, columns, keep_empty)


def has_label(rows: list[Row]) -> bool:
    """Whether a column has one of the usual names for labels."""
    return bool({name.lower() for name in rows[0]} & set(LABELS))


# ---- reading


def _read_file(path: Path) -> list[Row]:
    if not path.exists():
        folder = path.parent if path.parent.exists() else Path()
        names = [p.name for p in folder.iterdir() if p.is_file()]
        near = get_close_matches(path.name, names, n=1)
        raise DataError(f"no file {path}" + (f"; did you mean {near[0]}?" if near else ""))
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file: {', '.join(_ENDINGS)} (also .gz)")
    kind = path.name.lower().removesuffix(".gz")
    if kind.endswith(".parquet"):
        return _parquet(path)
    try:
        raw = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; the file is "
            "probably in another encoding: convert it, e.g. with "
            "`iconv -f latin1 -t utf-8 IN > OUT`"
        ) from None
    if kind.endswith((".csv", ".tsv")):
        return _delimited(path, content, "\t" if kind.endswith(".tsv") else None)
    return _json_lines(path, content)


def _delimited(path: Path, content: str, delimiter: str | None) -> list[Row]:
    csv.field_size_limit(1 << 30)
    if delimiter is None:
        head = content.split("\n", 1)[0]
        delimiter = max(",;\t", key=head.count)
    # Tab-separated files of this field (GLUE's, say) use quotes as plain characters.
    lines = io.StringIO(content, newline="")
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter)
    rows: list[Row] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = cells
            elif len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but the header has "
                    f"{len(header)} ({', '.join(header)})"
                )
            else:
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from None
    return rows


def _json_lines(path: Path, content: str) -> list[Row]:
    rows: list[Row] = []
    # Not splitlines(): it also cuts at separators that JSON allows inside strings.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            hint = " (a JSON array? expected one object a line)" if line.lstrip()[0] == "[" else ""
            raise DataError(f"{path}, line {number}: broken JSON: {error}{hint}") from None
        except (ValueError, RecursionError) as error:  # endless digits, endless nesting
            raise DataError(f"{path}, line {number}: unreadable JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: a {type(row).__name__}; expected one JSON object a line"
            )
        rows.append(row)
    return rows


def _parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_table(path).to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path} as Parquet: {error}") from None


def _read_hub(source: str, split: str) -> list[Row]:
    name, _, part = source.partition(":")
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"no file {source}; to read it as a hub dataset install the extra: "
            "pip install 'finesieve[hub]'"
        ) from None
    try:
        found = datasets.load_dataset(name, split=part or split)
    except Exception as error:  # the hub raises dozens of kinds
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"no file {source}, and it could not be loaded as a hub dataset: {first}"
        ) from None
    names = getattr(found.features.get("label"), "names", None)
    rows: list[Row] = [dict(row) for row in found]
    if names:
        for row in rows:
            if isinstance(row["label"], int) and row["label"] >= 0:
                row["label"] = names[row["label"]]
    return rows


# ---- columns


def _columns(
    source: str, rows: list[Row], text: str | None, pair: str | None, label: str | None
) -> tuple[str, str | None, str]:
    have = list(rows[0])
    for given in (text, pair, label):
        if given is not None and given not in have:
            near = get_close_matches(given, have, n=1)
            raise DataError(
                f"{source} has no column {given!r}; it has {', '.join(map(repr, have))}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    lower = {name.lower(): name for name in reversed(have)}
    if label is None:
        label = next((lower[n] for n in LABELS if n in lower), None)
        if label is None:
            raise DataError(
                f"{source}: which column is the label? Name it with --label; there are "
                f"{', '.join(map(repr, have))}"
            )
    if text is None:
        for a, b in PAIRS:
            if pair is None and a in lower and b in lower and label not in (lower[a], lower[b]):
                return lower[a], lower[b], label
        text = next((lower[n] for n in TEXTS if n in lower and lower[n] not in (label, pair)), None)
    if text is None:
        wordy = [n for n in have if n not in (label, pair) and isinstance(rows[0][n], str)]
        if len(wordy) != 1:
            raise DataError(
                f"{source}: which column is the text? Name it with --text; there are "
                f"{', '.join(map(repr, have))}"
            )
        text = wordy[0]
    return text, pair, label


def _table(
    source: str, rows: list[Row], columns: tuple[str, str | None, str], keep_empty: bool
) -> Table:
    text, pair, label = columns
    table = Table(source, [], [] if pair else None, [], [], columns)
    missing, empty = [], 0
    for number, row in enumerate(rows):
        a, b, y = row.get(text), row.get(pair) if pair else "", row.get(label)
        if y is None or y == "" or (isinstance(y, float) and math.isnan(y)):
            missing.append(number)
            continue
        for name, value in ((text, a), (pair, b)):
            if value is not None and not isinstance(value, str):
                raise DataError(
                    f"{source}, example {number}: {name!r} is a {type(value).__name__} "
                    f"({value!r:.40}); expected text: is it the right column?"
                )
            if value is not None and not value.isascii() and _SURROGATE.search(value):
                raise DataError(
                    f"{source}, example {number}: {name!r} has half of a surrogate pair "
                    "(\\ud800 to \\udfff): it was cut or decoded wrongly"
                )
        if not (a or "").strip() or (pair and not (b or "").strip()):
            empty += 1
            if not keep_empty:
                continue
        table.texts.append(a or "")
        if table.pairs is not None:
            table.pairs.append(b or "")
        table.labels.append(_label(source, number, label, y))
        table.rows.append(number)
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{source}: {len(missing)} of {len(rows)} examples have no {label!r} (examples "
            f"{shown}, counted from 0): remove them, or name another column with --label"
        )
    if empty:
        what = "kept" if keep_empty else "dropped (--keep-empty keeps them)"
        table.notes.append(f"{source}: {empty} of {len(rows)} rows with an empty text {what}")
    table.labels = _numbers_if_all_are(source, label, table.labels)
    if not table.texts:
        raise DataError(f"{source}: every text is empty; is {text!r} the right column?")
    return table


def _label(source: str, number: int, column: str, value: Any) -> Label:
    """A class as whole number or text; text that looks like a number is judged later."""
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise DataError(
                f"{source}, example {number}: {column!r} is {value}; expected classes, as text or "
                "whole numbers (this command trains classifiers, not regressions)"
            )
        return int(value)
    if isinstance(value, str):
        return value.strip()
    raise DataError(
        f"{source}, example {number}: {column!r} is a {type(value).__name__}; expected one class "
        "an example, as text or a whole number"
    )


_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0+)?")  # "007" is a name, not a 7
_REAL = re.compile(r"-?\d+\.\d+")


def _numbers_if_all_are(source: str, column: str, labels: list[Label]) -> list[Label]:
    """Text labels as whole numbers if every one is written as such, else all as text."""
    names = {x for x in labels if isinstance(x, str)}
    if not names:
        return labels
    if all(_WHOLE.fullmatch(x) for x in names):
        return [int(x.split(".")[0]) if isinstance(x, str) else x for x in labels]
    if all(_REAL.fullmatch(x) or _WHOLE.fullmatch(x) for x in names):
        some = next(x for x in labels if isinstance(x, str) and not _WHOLE.fullmatch(x))
        raise DataError(
            f"{source}: {column!r} holds numbers like {some}; expected classes, as text or whole "
            "numbers (this command trains classifiers, not regressions)"
        )
    return [str(x) for x in labels]


# ---- labels


def label_names(train: Table, evals: Iterable[Table]) -> list[Label]:
    """The classes, sorted, from the training split; `DataError` where splits differ.

    If one split has text labels, whole numbers in the others are taken as text too.
    """
    evals = list(evals)
    if any(isinstance(y, str) for table in (train, *evals) for y in table.labels):
        for table in (train, *evals):
            table.labels = [str(y) for y in table.labels]
    counts = Counter(train.labels)
    if len(counts) < 2:
        only = next(iter(counts))
        raise DataError(
            f"{train.name}: every example has the label {only!r}; at least two classes are needed "
            "to train a classifier: is it the right column, or a file sorted and cut by class?"
        )
    if len(counts) > 1000 and len(counts) > len(train) // 2:
        raise DataError(
            f"{train.name}: {len(counts)} different labels in {len(train)} examples; expected "
            "classes: is it the right column?"
        )
    names: list[Label] = sorted(counts)
    for table in evals:
        strange = sorted(set(map(str, set(table.labels) - set(counts))))
        if strange:
            raise DataError(
                f"{table.name} has labels that {train.name} has not: {', '.join(strange[:5])} "
                f"(known: {', '.join(map(str, names[:8]))}{', ...' if len(names) > 8 else ''})"
            )
    return names
