"""Reads tables in text files: finds the character between cells and how cells are quoted.

Programs write such files in a few ways, and no file says in which. A reading is accepted if every
record has as many cells as the header has and quotation marks pair up; the usual ones are tried
first. Where two fit, the marks are counted: a program that quotes cells writes a number of them
that follows from the cells.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finesieve.errors import DataError

Row = dict[str, Any]
_DELIMITERS = ",;\t|"
HEAD = 1 << 16  # characters by which the delimiter is found
FEW = 20  # records among which any value counts as usual
FOR_EXCEL = re.compile(r'"?sep=(.)"?\r?\n')  # a line before the header
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?|NA")  # cells that R and pandas do not quote


@dataclass
class _Reading:
    """Records as one way to read them gives them.

    Args:
        cells: of each record.
        ends: the line at which each record ends.
        wrong: what does not fit; empty if all does.
        told: what the user should know of this way.
    """

    cells: list[list[str]]
    ends: list[int]
    wrong: str
    told: str = ""


def read_delimited(name: str, content: str, delimiter: str | None) -> tuple[list[Row], list[str]]:
    """Return the rows of a table, by the names in its header, and notes for the user.

    Args:
        name: of the file, for messages.
        content: of the file, line ends as they are.
        delimiter: between cells, if the file's name tells; it is looked for in the header.

    Raises:
        DataError: if no reading gives every record as many cells as the header.
    """
    csv.field_size_limit(1 << 30)
    first = FOR_EXCEL.match(content)
    if first:
        delimiter, content = first[1], content[first.end() :]
    delimiter = delimiter_of(content, delimiter)
    if "\\N" in content:  # MySQL's NULL
        edge = re.escape(delimiter) + "\r\n"
        content = re.sub(rf"(?<![^{edge}])\\N(?![^{edge}])", "", content)
    for found in _readings(content, delimiter):
        if not found.wrong:
            break
    else:
        raise DataError(f"{name}, {found.wrong}")
    rows, notes = _rows(name, found.cells)
    return rows, ([f"{name}: {found.told}"] if found.told else []) + notes


def delimiter_of(content: str, expected: str | None) -> str:
    """Returns the character that splits the most records into as many cells as the header has, or
    the one that is expected, if it is in the header.

    Args:
        content: of the file; the first `HEAD` + 1 characters do.
        expected: by the file's name.
    """
    if expected is not None and expected in content.lstrip("\r\n").split("\n", 1)[0]:
        return expected
    head = content[:HEAD]
    if len(content) > HEAD:
        head = head[: head.rfind("\n") + 1]
    best, found = (0.0, 0), ","
    for delimiter in _DELIMITERS:
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            lines = io.StringIO(head, newline="")
            records = [r for r in csv.reader(lines, delimiter=delimiter, quoting=quoting) if r]
            width = len(records[0]) if records else 0
            if width > 1:
                share = sum(len(r) == width for r in records) / len(records)
                if (share, width) > best:
                    best, found = (share, width), delimiter
    return found


# ---- readings


def _readings(content: str, delimiter: str) -> Iterator[_Reading]:
    """Yields readings, the likeliest first. The last one tells best what is wrong if none fits."""
    plain = _read(content, delimiter, quoting=csv.QUOTE_NONE)
    usual = plain
    if '"' in content:
        standard = _standard(content, delimiter)
        bare = not standard.wrong and not plain.wrong and _bare(standard.cells, content)
        # Tab-separated files of this field (GLUE's, say) use quotes as plain characters.
        usual = plain if delimiter == "\t" or bare else standard
        why = standard.wrong or "others within the texts are not doubled"
        if delimiter != "\t":
            plain.told = (
                "quotation marks are read as characters of the texts, since as marks around cells "
                f"they do not fit ({why})"
            )
        if not standard.wrong and _as_written(standard.cells, content, delimiter):
            yield standard
        if '\\"' in content:  # Spark, MySQL, R's write.table
            yield _read(_doubled(content, delimiter), delimiter, strict=True)
        if re.search(re.escape(delimiter) + ' +"', content):
            spaced = _read(content, delimiter, strict=True, skipinitialspace=True)
            if not spaced.wrong and _as_written(spaced.cells, content, delimiter):
                yield spaced
        yield usual
        yield standard
    yield plain
    if "\\" in content:  # MySQL's own way
        yield _read(content, delimiter, quoting=csv.QUOTE_NONE, escapechar="\\")
    yield _read(content, delimiter, strict=True, quotechar="'")
    yield usual


def _standard(content: str, delimiter: str) -> _Reading:
    """Reads quotation marks as marks around cells, doubled where they belong to the text."""
    reading = _read(content, delimiter, strict=True)
    line = None if reading.wrong else _swallowed(reading, content, delimiter)
    if line is not None:
        reading.wrong = (
            f"line {line}: a quotation mark opens a text that would go on over whole rows; "
            "it probably belongs to the text: write such a text in quotes, its own doubled, or "
            "write the file with a library (csv, pandas)"
        )
    return reading


def _read(content: str, delimiter: str, **how: Any) -> _Reading:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, **how)
    cells, ends = [], []
    try:
        for record in reader:
            if record:
                cells.append(record)
                ends.append(reader.line_num)
    except csv.Error as error:
        why = f"line {reader.line_num}: "
        if "unexpected end" in str(error):
            why += "a quotation mark opens a cell that never ends"
        elif "expected after" in str(error):
            why += "text follows the quotation mark that ends a cell"
        else:
            why += str(error)
        return _Reading(cells, ends, why)
    return _Reading(cells, ends, _uneven(cells, ends))


def _uneven(cells: list[list[str]], ends: list[int]) -> str:
    """Returns what is wrong with the number of cells, or an empty string. R writes a column of row
    names without a name."""
    if not cells:
        return ""
    header, widths = cells[0], {len(r) for r in cells[1:]}
    if widths <= {len(header)} or (widths == {len(header) + 1} and len(header) > 1):
        return ""
    place = next(i for i, r in enumerate(cells) if len(r) != len(header))
    return (
        f"line {ends[place]}: {len(cells[place])} cells, but the header has {len(header)} "
        f"({', '.join(header)}); a text that holds the character between cells has to stand in "
        'double quotes, its own quotes doubled ("")'
    )


def _doubled(content: str, delimiter: str) -> str:
    """Returns the content with quotes behind a backslash, in quoted cells, doubled instead."""
    edge = re.escape(delimiter) + "\r\n"
    cell = re.compile(rf'(?<![^{edge}])"((?:[^"\\]|\\.|"")*)"(?![^{edge}])', re.DOTALL)
    meant = {'"': '""', "\\": "\\", "\n": "\n", "\r": "\r"}

    def mended(match: re.Match[str]) -> str:
        inner = re.sub(r"\\(.)", lambda m: meant.get(m[1], m[0]), match[1], flags=re.DOTALL)
        return f'"{inner}"'

    return cell.sub(mended, content)


def _as_written(cells: list[list[str]], content: str, delimiter: str) -> bool:
    """Returns whether a program that quotes cells writes as many quotation marks as there are."""
    marks = Marks(delimiter)
    for record in cells:
        marks.add(record)
    return content.count('"') in marks.written


class Marks:
    """Counts the quotation marks that a program writes around cells and in them.

    Attributes:
        written: by each of four usual ways to choose the cells that are quoted: where needed,
            Excel's (commas too), all, all but numbers.
        held: what the cells need that hold a mark.
    """

    def __init__(self, delimiter: str) -> None:
        self._needed = re.compile(f'["\r\n{re.escape(delimiter)}]')
        self.written = [0, 0, 0, 0]
        self.held = 0

    def add(self, record: list[str]) -> None:
        """Counts the marks of one more record."""
        counts, needed = self.written, self._needed
        for cell in record:
            inside = cell.count('"')
            marks = 2 + 2 * inside
            counts[0] += marks if needed.search(cell) else 0
            counts[1] += marks if "," in cell or needed.search(cell) else 0
            counts[2] += marks
            counts[3] += 0 if _NUMBER.fullmatch(cell) else marks
            self.held += marks if inside else 0


def _bare(cells: list[list[str]], content: str) -> bool:
    """Returns whether there are fewer quotation marks than the cells that hold some would need."""
    held = sum(2 + 2 * cell.count('"') for record in cells for cell in record if '"' in cell)
    return content.count('"') < held


def _swallowed(reading: _Reading, content: str, delimiter: str) -> int | None:
    """Returns the first line of a record most of whose lines look like rows of their own; None
    without one.

    They have the header's number of cells and, in a column, a value that other rows have too.
    """
    many = [i for i, record in enumerate(reading.cells) if any("\n" in cell for cell in record)]
    if not many or not reading.cells:
        return None
    width, inside = len(reading.cells[0]), set(many)
    known = [
        {v for v, n in Counter(column).items() if n > 1 or len(reading.cells) < FEW}
        for column in zip(
            *(r for i, r in enumerate(reading.cells) if i and i not in inside and len(r) == width),
            strict=True,
        )
    ]
    if not known:
        return None
    lines = list(io.StringIO(content, newline=""))  # as the reader counts them
    for i in many:
        start = reading.ends[i - 1] if i else 0
        parts = [line.rstrip("\r\n").split(delimiter) for line in lines[start : reading.ends[i]]]
        alike = sum(
            len(p) == width and any(v in seen for v, seen in zip(p, known, strict=True))
            for p in parts
        )
        if alike >= 2 and 2 * alike > len(parts):
            return start + 1
    return None


# ---- rows


def _rows(name: str, cells: list[list[str]]) -> tuple[list[Row], list[str]]:
    """Returns a table's rows as dicts by column name, and notes on names that had to be changed."""
    if not cells:
        return [], []
    names, notes = column_names(name, *cells[:2])
    return [dict(zip(names, record, strict=True)) for record in cells[1:]], notes


def column_names(
    name: str, header: list[str], first: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """Returns the names of a table's columns, and notes on names that had to be changed.

    If two columns have the same name, the second one gets a number: `label.1`.

    Args:
        name: of the file, for messages.
        header: its first record.
        first: the one after it, which has a cell more if a column of row names has no name.
    """
    header, notes = [cell.strip() for cell in header], []
    if first is not None and len(first) == len(header) + 1:
        header.insert(0, "row name")
        notes.append(f"{name}: the first column has no name in the header; taken as row names")
    times = Counter(header)
    seen: Counter[str] = Counter()
    names = []
    for column in header:
        names.append(f"{column}.{seen[column]}" if seen[column] else column)
        seen[column] += 1
    for column, n in times.items():
        if n > 1 and column:
            others = ", ".join(f"{column}.{i}" for i in range(1, n))
            notes.append(
                f"{name}: {n} columns are named {column!r}; that name stands for the first, "
                f"{others} for the other{'s' if n > 2 else ''}"
            )
    return names, notes
