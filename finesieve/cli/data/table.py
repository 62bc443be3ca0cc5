"""Labelled examples from a file, a hub dataset or the built-in `docstrings`.

Everything is checked here, at the door: after `load` and `label_names` a run cannot fail on data.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finesieve.cli.data.columns import Columns, told
from finesieve.cli.data.files import is_file_name, read_file
from finesieve.cli.data.hub import read_hub
from finesieve.cli.data.labels import Label, alike, amounts_hint, doubtful, is_missing
from finesieve.cli.data.lean import Lean
from finesieve.cli.data.names import read_names
from finesieve.cli.data.readers import READERS, Reader, Words
from finesieve.errors import DataError
from finesieve.insight.packed import Packed

_SURROGATE = re.compile("[\ud800-\udfff]")
_TOGETHER = 65_536
_TWICE = re.compile("â€[™œ\x9d“”¦]|Ã[©¨¤¶¼±]")  # UTF-8 read as Windows-1252, and written again

Row = dict[str, Any]


@dataclass
class Table:
    """Labelled examples.

    Args:
        pairs: None for single texts.
        words: of each text, where they are labelled one by one.
        rows: each one's row in the source, counted from 0, without the header.
        taken: a line that names the columns.
        notes: what else the user has to know.
        digest: of all texts and labels of the source.
    """

    name: str
    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: list[Label]
    rows: Sequence[int]
    columns: tuple[str | None, str | None, str | None] = (None, None, None)
    taken: str = ""
    notes: list[str] = field(default_factory=list)
    digest: str = ""
    words: list[Words] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Sequence[int], name: str | None = None) -> Table:
        """Returns the chosen rows."""
        return Table(
            name or self.name,
            [self.texts[i] for i in index],
            [self.pairs[i] for i in index] if self.pairs is not None else None,
            [self.labels[i] for i in index],
            [self.rows[i] for i in index],
            self.columns,
            words=None if self.words is None else [self.words[i] for i in index],
        )


def load(
    source: str,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    keep_empty: bool = False,
    unlabelled: str = "refuse",
    split: str = "train",
    task: str = "classification",
    label_names: str | None = None,
) -> Table:
    """Read and check one source.

    Args:
        source: a file, a hub dataset id ("name" or "name:split"), or "docstrings" /
            "docstrings:train" / "docstrings:test".
        text, text_pair, label: column names; found by their usual names if not given.
        keep_empty: keeps rows with an empty text, which are dropped else.
        unlabelled: "refuse" rows without a label and labels like nan or -1 that probably say so,
            "drop" them, or "keep" such labels as classes.
        split: the part of the dataset, where the source names none.
        task: a name in `READERS`: what labels are.
        label_names: a file with the names of labels that are numbers, or the names with commas
            between them.

    Raises:
        DataError: with what is wrong, where, and what to do.
    """
    rows, notes = rows_of(source, split)
    names = None if label_names is None else read_names(label_names)
    return table_of(
        source, rows, notes, text, text_pair, label, keep_empty, unlabelled, task, names
    )


def rows_of(source: str, split: str = "train") -> tuple[list[Row], list[str]]:
    """Read the rows of a source as they are, a dict each, and what the user has to know of them.

    Raises:
        DataError: if they cannot be read, or there are none.
    """
    notes: list[str] = []
    if source.split(":")[0] == "docstrings" and not Path(source).exists():
        from finesieve.cli.data.docstrings import rows as docstring_rows

        part = source.split(":")[1] if ":" in source else split
        rows = docstring_rows(part)
    elif Path(source).exists() or is_file_name(source):
        rows, notes = read_file(Path(source))
    else:
        rows = read_hub(source, split)
    if not rows:
        raise DataError(f"{source} is empty: expected a row per example")
    return rows, notes


def table_of(
    source: str,
    rows: Sequence[Row],
    notes: list[str],
    text: str | None,
    text_pair: str | None,
    label: str | None,
    keep_empty: bool,
    unlabelled: str,
    task: str = "classification",
    names: Sequence[str] | None = None,
) -> Table:
    """Check rows that were read already; arguments and errors as of `load`, but the names."""
    reader = READERS[task]
    columns = reader.columns(source, rows, text, text_pair, label)
    table = _checked(source, rows, columns, keep_empty, unlabelled, reader, names)
    table.taken, table.notes = told(source, columns, rows), notes + table.notes
    return table


def _checked(
    source: str,
    rows: Sequence[Row],
    columns: Columns,
    keep_empty: bool,
    unlabelled: str,
    reader: Reader,
    names: Sequence[str] | None,
) -> Table:
    text, pair, label = columns
    large = isinstance(rows, Lean)
    texts: list[str] | Packed = Packed() if large else []
    pairs: list[str] | Packed = Packed() if large else []
    numbers: list[int] | array[int] = array("q") if large else []
    table = Table(source, texts, pairs if pair else None, [], numbers, columns)
    missing, blank, empty = [], 0, 0
    for number, row in enumerate(rows):
        y = row.get(label)
        if reader.missing(y):
            if all(is_missing(value) for value in row.values()):
                blank += 1
                continue
            if not (reader.task == "multi-label" and unlabelled == "keep"):
                missing.append(number)
                continue
            y = []  # none of the classes
        (a, words), b = reader.text(row.get(text)), row.get(pair) if pair else ""
        for name, value in ((text, a), (pair, b)):
            _check_text(source, number, name, value)
        if not (a or "").strip() or (pair and not (b or "").strip()):
            empty += 1
            if not keep_empty:
                continue
        texts.append(a or "")
        if pair:
            pairs.append(b or "")
        found = reader.label(source, number, label, y)
        if words is not None:
            _check_count(source, number, columns, words, found)
            if table.words is None:
                table.words = []
            table.words.append(words)
        table.labels.append(found)
        numbers.append(number)
    if blank:
        table.notes.append(
            f"{source}: {blank} of {len(rows)} rows without anything in them dropped"
        )
    if missing:
        what = f"{len(missing)} of {len(rows)} examples have no {label!r} ({_shown(missing)})"
        if unlabelled != "drop":
            raise DataError(
                f"{source}: {what}: leave them out with --unlabelled drop, "
                + "say --unlabelled keep if none of the labels applies to them, "
                * (reader.task == "multi-label")
                + "or name another column with --label"
            )
        table.notes.append(f"{source}: {what}; dropped")
    while reader.doubts and unlabelled != "keep" and (odd := doubtful(table.labels)) is not None:
        table = _without(table, odd, unlabelled)
    if empty:
        what = "kept" if keep_empty else "dropped (--keep-empty keeps them)"
        table.notes.append(f"{source}: {empty} of {len(rows)} rows with an empty text {what}")
    table.labels, more = reader.settle(source, label, table.labels, table.rows, names)
    if not table.texts:
        raise DataError(f"{source}: every text is empty; is {text!r} the right column?")
    table.notes += more
    table.notes += [
        f"{source}: {spelt} are different classes" for spelt in alike(_flat(table.labels))
    ]
    broken = sum(bool(_TWICE.search(x)) for x in table.texts)
    if broken:
        table.notes.append(
            f"{source}: {broken} texts have letters like â€™ or Ã©: UTF-8 that was read in another "
            "encoding and saved again"
        )
    parts: list[Sequence[Any] | None] = [table.texts, table.pairs, table.labels, table.rows]
    if table.words is not None:  # spaces inside of words do not part them
        parts.append(list(table.words))
    table.digest = _digest(*parts)
    return table


def _flat(labels: Sequence[Label]) -> list[Label]:
    """Returns the labels that there are, those of several an example one by one."""
    many = {x for x in labels if isinstance(x, tuple)}
    single = [x for x in dict.fromkeys(labels) if not isinstance(x, tuple)]
    return [*single, *dict.fromkeys(name for one in sorted(many, key=str) for name in one)]


def _check_count(source: str, number: int, columns: Columns, words: Words, tags: Label) -> None:
    """Raises `DataError` unless there is a tag for each word."""
    count = len(tags) if isinstance(tags, tuple) else 1
    if count != len(words):
        raise DataError(
            f"{source}, example {number}: {len(words)} words in {columns[0]!r}, but {count} tags "
            f"in {columns[2]!r}; expected one tag a word (it begins {' '.join(words)!r:.40})"
        )


def _digest(*columns: Sequence[Any] | None) -> str:
    """Returns the digest of the columns as one JSON array, of which little is in memory at a
    time."""
    digest = hashlib.sha1(b"[")
    for i, column in enumerate(columns):
        digest.update(b", " if i else b"")
        if column is None:
            digest.update(b"null")
            continue
        for start in range(0, max(1, len(column)), _TOGETHER):
            part = json.dumps(list(column[start : start + _TOGETHER]))[1:-1]
            digest.update(f"{', ' if start else '['}{part}".encode())
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()


def _check_text(source: str, number: int, name: str | None, value: Any) -> None:
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


def _without(table: Table, odd: Label, unlabelled: str) -> Table:
    """Returns the table without the examples whose label probably stands for a missing one.

    Raises:
        DataError: with `unlabelled="refuse"`.
    """
    rows = [row for row, y in zip(table.rows, table.labels, strict=True) if y == odd]
    what = f"{len(rows)} of {len(table)} examples have the label {odd!r} ({_shown(rows)})"
    if unlabelled == "refuse":
        raise DataError(
            f"{table.name}: {what}, which usually says that there is none: leave them out with "
            "--unlabelled drop, or keep it as a class with --unlabelled keep"
        )
    rest = table.take([i for i, y in enumerate(table.labels) if y != odd])
    rest.notes = [*table.notes, f"{table.name}: {what}; dropped"]
    return rest


def _shown(rows: list[int]) -> str:
    return f"rows {', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}, from 0"


def label_names(train: Table, evals: Iterable[Table]) -> list[Label]:
    """Return the classes, sorted, from the training split.

    If one split has text labels, whole numbers in the others are taken as text too.

    Raises:
        DataError: where there are too few or too many classes, or splits differ.
    """
    evals = list(evals)
    if any(isinstance(y, str) for table in (train, *evals) for y in table.labels):
        for table in (train, *evals):
            table.labels = [str(y) for y in table.labels]
    counts: Counter[Any] = Counter(train.labels)
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
            + (f" {hint}" if (hint := amounts_hint(train.labels)) else "")
        )
    names: list[Label] = sorted(counts)
    for table in evals:
        strange = sorted(set(map(str, set(table.labels) - set(counts))))
        if strange:
            raise DataError(
                f"{table.name} has labels that {train.name} has not: {', '.join(strange[:5])} "
                f"(known: {', '.join(map(str, names[:8]))}{', ...' if len(names) > 8 else ''})"
                + ("; -1 probably says that a row has no label" * (strange == ["-1"]))
                + (f"; {hint}" if (hint := amounts_hint(train.labels)) else "")
            )
    return names


def known_names(
    train: Table, evals: Iterable[Table], what: str, given: Sequence[str] | None
) -> list[int | str]:
    """Return the labels of splits that have several an example, sorted, from the training split.

    If one split has text labels, whole numbers in the others are taken as text too.

    Args:
        what: a label is called, "tag" or "label".
        given: all names that there may be, in their order; None if nobody gave them.

    Raises:
        DataError: where there are too few, or an evaluation split has others.
    """
    tables = [train, *evals]

    def names_in(table: Table) -> list[Any]:
        return [x for one in table.labels if isinstance(one, tuple) for x in one]

    if any(isinstance(x, str) for table in tables for x in names_in(table)):
        for table in tables:
            table.labels = [
                tuple(map(str, one)) if isinstance(one, tuple) else one for one in table.labels
            ]
    found = set(names_in(train))
    if len(found) < 2:
        only = f"the {what} {next(iter(found))!r} alone" if found else f"no {what} at all"
        raise DataError(
            f"{train.name} has {only}; at least two are needed to learn anything: is "
            f"{train.columns[2]!r} the right column?"
        )
    names: list[Any] = sorted(found)
    if given is not None:
        names = list(given)
    for table in tables[1:]:
        strange = set(names_in(table)) - set(names)
        if strange:
            first = next(
                row
                for row, one in zip(table.rows, table.labels, strict=True)
                if isinstance(one, tuple) and strange & set(one)
            )
            raise DataError(
                f"{table.name} has {what}s that {train.name} has not: "
                f"{', '.join(sorted(map(str, strange))[:5])} (example {first} is the first; known: "
                f"{', '.join(map(str, names[:8]))}{', ...' if len(names) > 8 else ''}): leave such "
                f"examples out, or name all {what}s that there may be with --label-names"
            )
    return names


def check_values(train: Table, evals: Iterable[Table]) -> list[str]:
    """Check the numbers of a regression's splits; return what the user has to know of them.

    Raises:
        DataError: if those of the training split are all the same.
    """
    same = [t for t in (train, *evals) if len(set(t.labels)) == 1]
    if any(t is train for t in same):
        raise DataError(
            f"{train.name}: every label is {train.labels[0]}; there is nothing to learn: is it "
            "the right column?"
        )
    return [
        f"{t.name}: every label is {t.labels[0]}, so its correlations are not known and shown as 0"
        for t in same
    ]
