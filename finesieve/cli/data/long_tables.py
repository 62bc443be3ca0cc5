"""Reads long tables in text files row by row, with the result of the reader of whole ones.

Which of its readings fits hangs on the whole file: on the number of quotation marks, the cells of
every record, and texts of several lines. So the file is read twice, first to survey it, then for
its rows. The usual ways to write a table are known after the survey; what is written otherwise is
left to the reader of whole files.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from finesieve.cli.data.delimited import (
    FEW,
    FOR_EXCEL,
    HEAD,
    Marks,
    Row,
    column_names,
    delimiter_of,
)
from finesieve.cli.data.files import encoding_if_plain

_LONGEST = 1 << 24  # characters of one record
_SUSPECTS = 1 << 20  # cells of texts that look like rows
_QUOTED: dict[str, Any] = {"strict": True}
_BARE: dict[str, Any] = {"quoting": csv.QUOTE_NONE}


class Otherwise(Exception):  # noqa: N818 - no error: another reader takes it
    """The file is not what can be read row by row."""


def read_long(path: Path) -> tuple[Iterator[Row], list[str]]:
    """Returns the rows of a table, by the names in its header, and notes for the user.

    Args:
        path: of a file that ends in .csv or .tsv.

    Raises:
        Otherwise: if the reader of whole files has to take it; also while the rows are read.
        UnicodeDecodeError, DataError: if it is no text.
    """
    encoding = encoding_if_plain(path)
    if encoding is None:
        raise Otherwise
    csv.field_size_limit(1 << 30)
    lines = _Lines(path, encoding)
    head = lines.head()
    if FOR_EXCEL.match(head) or "\n" not in head.lstrip("\r\n"):
        raise Otherwise
    delimiter = delimiter_of(head, "\t" if path.name.lower().endswith(".tsv") else None)
    how = _how(lines, delimiter)
    first = list(islice(lines.records(delimiter, how), 2))
    names, notes = column_names(str(path), *first)
    if len(names) > len(first[0]) == 1:  # no row names: the text holds the delimiter
        raise Otherwise
    return _rows(lines.records(delimiter, how), names), notes


def _rows(records: Iterator[list[str]], names: list[str]) -> Iterator[Row]:
    """Yields the rows; raises `Otherwise` at one with more or fewer cells than there are names."""
    next(records)
    for record in records:
        if len(record) != len(names):
            raise Otherwise
        yield dict(zip(names, record, strict=True))


class _Lines:
    """The lines of a file, as often as they are asked for."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._path, self._encoding = path, encoding

    def __iter__(self) -> Iterator[str]:
        with self._path.open(encoding=self._encoding, newline="") as file:
            yield from file

    def head(self) -> str:
        """Returns what the delimiter is found by."""
        with self._path.open(encoding=self._encoding, newline="") as file:
            return file.read(HEAD + 1)

    def records(self, delimiter: str, how: dict[str, Any]) -> Iterator[list[str]]:
        """Yields the records that are not blank; raises `Otherwise` where they cannot be read."""
        try:
            yield from filter(None, csv.reader(self, delimiter=delimiter, **how))
        except csv.Error:
            raise Otherwise from None


# ---- the survey


@dataclass
class _Survey:
    """What the whole file says of how it is written, read with marks around cells.

    Attributes:
        marks: those that programs would write. quotes: those that there are.
        records: those that are not blank.
        widths: numbers of cells, the header's apart.
        escaped: whether a mark stands behind a backslash. spaced: one behind a delimiter and
            blanks. nulls: whether a cell is MySQL's NULL.
        broken: whether a record cannot be read so.
        suspects: of records whose lines may be rows of their own, the cells of lines as wide as
            the header, and the number of all lines.
    """

    marks: Marks
    quotes: int = 0
    records: int = 0
    header: list[str] = field(default_factory=list)
    widths: set[int] = field(default_factory=set)
    escaped: bool = False
    spaced: bool = False
    nulls: bool = False
    broken: bool = False
    suspects: list[tuple[list[list[str]], int]] = field(default_factory=list)

    @property
    def even(self) -> bool:
        """Whether all records have the header's number of cells, or one more: R's row names."""
        width = len(self.header)
        return self.widths <= {width} or (self.widths == {width + 1} and width > 1)


def _how(lines: _Lines, delimiter: str) -> dict[str, Any]:
    """Returns how the csv module reads the file; the order of the tries is that of
    `delimited._readings`."""
    survey = _surveyed(lines, delimiter)
    if survey.nulls or (survey.records < FEW and not survey.broken):
        raise Otherwise
    if survey.quotes == 0:
        return _BARE
    quoted = not survey.broken and survey.even and not _swallowed(survey, lines, delimiter)
    if quoted and survey.quotes in survey.marks.written:
        return _QUOTED
    if survey.escaped or survey.spaced:
        raise Otherwise
    if delimiter == "\t":
        return _BARE
    if not quoted or survey.quotes < survey.marks.held:
        raise Otherwise
    return _QUOTED


def _surveyed(lines: _Lines, delimiter: str) -> _Survey:
    survey = _Survey(Marks(delimiter))
    spaced = re.compile(re.escape(delimiter) + ' +"')
    edge = re.escape(delimiter) + "\r\n"
    null = re.compile(rf"(?<![^{edge}])\\N(?![^{edge}])")
    here: list[str] = []  # the lines since the last record that is not blank
    cells = 0

    def watched() -> Iterator[str]:
        size = 0
        for line in lines:
            if '"' in line:
                survey.quotes += line.count('"')
                survey.escaped |= '\\"' in line
                survey.spaced |= spaced.search(line) is not None
            survey.nulls |= "\\N" in line and null.search(line) is not None
            if not survey.broken:
                size = len(line) + (size if here else 0)
                if size > _LONGEST:
                    raise Otherwise
                here.append(line)
            yield line

    source = watched()
    try:
        for record in csv.reader(source, delimiter=delimiter, **_QUOTED):
            if not record:
                continue
            survey.records += 1
            survey.marks.add(record)
            if survey.records == 1:
                survey.header = record
            else:
                survey.widths.add(len(record))
            if len(here) > 1 and any("\n" in cell for cell in record):
                parts = [line.rstrip("\r\n").split(delimiter) for line in here]
                wide = [p for p in parts if len(p) == len(survey.header)]
                if len(wide) >= 2 and 2 * len(wide) > len(parts):
                    survey.suspects.append((wide, len(parts)))
                    cells += len(wide) * len(survey.header)
                    if cells > _SUSPECTS:
                        raise Otherwise
            here.clear()
    except csv.Error:
        survey.broken = True
        deque(source, maxlen=0)  # read to the end: the quotation marks are counted on the way
    return survey


def _swallowed(survey: _Survey, lines: _Lines, delimiter: str) -> bool:
    """Returns whether a record is made of whole rows, as `delimited._swallowed` tells it: most of
    its lines have, in a column, a value that other rows have too."""
    if not survey.suspects:
        return False
    width = len(survey.header)
    asked = [{p[k] for wide, _ in survey.suspects for p in wide} for k in range(width)]
    times: list[dict[str, int]] = [{} for _ in range(width)]
    found = False
    for i, record in enumerate(lines.records(delimiter, _QUOTED)):
        if i == 0 or len(record) != width or any("\n" in cell for cell in record):
            continue
        found = True
        for cell, some, many in zip(record, asked, times, strict=True):
            if cell in some:
                many[cell] = many.get(cell, 0) + 1
    if not found:
        return False
    for wide, count in survey.suspects:
        alike = sum(
            any(many.get(cell, 0) > 1 for cell, many in zip(p, times, strict=True)) for p in wide
        )
        if alike >= 2 and 2 * alike > count:
            return True
    return False
