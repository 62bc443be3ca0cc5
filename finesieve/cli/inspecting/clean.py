"""`finesieve clean`: the data without the rows that a person confirmed as wrong."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from finesieve.cli.data.encodings import encoding_of
from finesieve.cli.data.table import rows_of
from finesieve.errors import ConfigError, DataError

YES = ("yes", "y", "true", "1", "x")
NO = ("", "no", "n", "false", "0")
_DELIMITERS = ",;\t"
_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def clean(source: str, drop: str, output: str) -> tuple[int, int, list[str]]:
    """Writes the rows of `source` that are not confirmed in `drop`.

    Args:
        source: the data that were inspected.
        drop: issues.csv with the column `confirmed` filled in.
        output: the file to write; its ending says how.

    Returns:
        Rows left out, rows written, and notes.

    Raises:
        ConfigError: for an output that cannot be written.
        DataError: if nothing is confirmed, or the issues are of other data.
    """
    target = Path(output)
    if not target.name.lower().endswith(_ENDINGS):
        raise ConfigError(f"output {output}; expected a file that ends in {', '.join(_ENDINGS)}")
    if target.exists():
        raise ConfigError(f"output {output} exists: choose another file, or remove it")
    rows, notes = rows_of(source)
    confirmed, damaged = _confirmed(drop)
    for number, text in confirmed.items():
        if number >= len(rows):
            raise DataError(f"{drop}: row {number}, but {source} has {len(rows)} (from 0)")
        have = [str(value) for value in rows[number].values()]
        parts = text.split(" || ") if text else []
        if not all(any(_same(part, x, damaged) for x in have) for part in parts):
            raise DataError(
                f"{drop}: row {number} reads {text!r:.60}, but in {source} it does not: the issues "
                "are of other data, or the data were changed since"
            )
    kept = [row for number, row in enumerate(rows) if number not in confirmed]
    if not kept:
        raise DataError(f"{drop} confirms every row of {source}: nothing would be left")
    _write(target, kept)
    return len(confirmed), len(kept), notes


def _confirmed(path: str) -> tuple[dict[int, str], bool]:
    """Returns the numbers of the confirmed rows, with their texts, and whether an encoding has
    changed letters of these.

    Raises:
        DataError: for a file that is none of `inspect`'s, or confirms nothing.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None
    content, damaged = _decoded(raw)
    csv.field_size_limit(1 << 30)
    # A spreadsheet program writes what its country's settings say between cells.
    for delimiter in _DELIMITERS:
        records = list(csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter))
        if records and {"row", "confirmed"} <= records[0].keys():
            break
    else:
        if content.strip().count("\n"):
            raise DataError(f"{path} has no columns 'row' and 'confirmed': is it issues.csv?")
        records = []
    out = {}
    for line, record in enumerate(records, 2):
        said = (record["confirmed"] or "").strip().lower()
        if said not in YES + NO:
            raise DataError(f"{path}, line {line}: confirmed is {said!r}; expected yes or nothing")
        if said in YES:
            if not (record["row"] or "").isdigit():
                raise DataError(f"{path}, line {line}: row is {record['row']!r}; expected a number")
            out[int(record["row"])] = record.get("text") or ""
    if not out:
        raise DataError(
            f"{path} confirms no row: write yes into the column 'confirmed' where a label is wrong"
        )
    return out, damaged


def _decoded(raw: bytes) -> tuple[str, bool]:
    """Returns the text of a file that a spreadsheet program may have written, in UTF-8 or UTF-16,
    else in its country's encoding; and whether letters beyond ASCII may be others then."""
    try:
        return raw.decode(encoding_of(raw)).removeprefix("\ufeff"), False
    except UnicodeDecodeError:
        return raw.decode("windows-1252", errors="replace"), True


def _same(read: str, value: str, damaged: bool) -> bool:
    """Returns whether a text that was read is this value, but for line ends, and, where an encoding
    has changed letters, for what is not plain ASCII."""
    read, value = (x.replace("\r\n", "\n") for x in (read, value))
    if not damaged or (read.isascii() and "?" not in read):
        return read == value
    read, value = (re.sub(r"[^ -~]|[?]", "", x) for x in (read, value))
    return bool(read.strip()) and read == value


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind in (".jsonl", ".ndjson"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        tabs = kind == ".tsv"
        writer = csv.DictWriter(
            file,
            list(rows[0]),
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            quotechar=None if tabs else '"',
        )
        try:
            writer.writeheader()
            writer.writerows(rows)
        except (csv.Error, ValueError) as error:
            raise DataError(f"cannot write {path}: {error}; use .jsonl") from None
