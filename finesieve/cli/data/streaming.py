"""Large files row by row: only the columns that are asked for stay in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from finesieve.cli.data.columns import LABELS, find_columns, has_label
from finesieve.cli.data.labels import is_missing
from finesieve.cli.data.lean import Lean
from finesieve.cli.data.long_tables import Otherwise, read_long
from finesieve.cli.data.table import Row, rows_of
from finesieve.errors import DataError

LEAN = (".jsonl", ".ndjson", ".parquet", ".csv", ".tsv")  # files that are read row by row
_FIRST = 1000  # rows that stay whole, by which the columns are found
_TOGETHER = 16_384  # rows of a Parquet file that are unpacked at once


def lean_rows(
    source: str,
    text: str | None,
    pair: str | None,
    label: str | None,
    before: Callable[[], None] = lambda: None,
) -> tuple[list[Row] | Lean, list[str]]:
    """Reads a source as `rows_of` does, of the files in `LEAN` the needed columns alone.

    Args:
        source: a file, or whatever else `rows_of` reads.
        text, pair, label: columns as named by the user; None to find them.
        before: is called before a source is read as a whole, which takes more memory.

    Raises:
        DataError: if they cannot be read, or there are none.
    """
    path = Path(source)
    kind = path.name.lower()
    try:
        if path.is_file() and kind.endswith((".jsonl", ".ndjson")):
            return _lean(_lines(path), source, text, pair, label), []
        if path.is_file() and kind.endswith(".parquet"):
            return _lean(_batches(path), source, text, pair, label), []
        if path.is_file() and kind.endswith((".csv", ".tsv")):
            rows, notes = read_long(path)
            return _lean(rows, source, text, pair, label), notes
    except (Otherwise, UnicodeDecodeError, DataError):
        pass  # read as a whole: it takes more in, and says in full what is wrong
    before()
    return rows_of(source)


def _lean(
    rows: Iterator[Row], source: str, text: str | None, pair: str | None, label: str | None
) -> Lean:
    first = list(islice(rows, _FIRST))
    if not first or (len(first) == 1 and isinstance(next(iter(first[0].values()), None), list)):
        raise Otherwise  # empty, or one object of columns
    asked = first
    if label is None and not has_label(first):
        asked = [{**row, LABELS[0]: 0} for row in first]
    kept = [name for name in find_columns(source, asked, text, pair, label) if name is not None]
    known = label is not None or has_label(first)
    out = Lean(kept[:-1], kept[-1] if known else None)
    for row in first:
        out.append(row, whole=True)
    for row in rows:
        # Whether a row is blank is judged by all of it.
        out.append(row, whole=all(is_missing(row.get(name)) for name in kept))
    return out


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise Otherwise from None
            if not isinstance(row, dict):
                raise Otherwise
            yield row


def _batches(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_TOGETHER):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException):
        raise Otherwise from None


def rows_in(source: str) -> int | None:
    """Returns about how many rows a file has, by its size and its first lines, without reading
    it; None where that cannot be told."""
    path = Path(source)
    kind = path.name.lower()
    if not path.is_file():
        return None
    if kind.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, pa.ArrowException):
            return None
    if not kind.endswith((".jsonl", ".ndjson", ".csv", ".tsv", ".txt")):
        return None
    with path.open("rb") as file:
        lines = list(islice(file, _FIRST))
    size = sum(map(len, lines))
    return 0 if size == 0 else round(path.stat().st_size * len(lines) / size)
