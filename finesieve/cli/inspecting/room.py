"""Whether the machine has the memory that a look at a data set takes, before it is read."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from finesieve.cli.data.streaming import LEAN as STREAMED
from finesieve.cli.data.streaming import rows_in
from finesieve.errors import DataError

# Bytes a row beside its text, as measured with texts of 100 bytes (results/insight/memory.json).
LEAN, WHOLE = 230, 1000  # files that are read row by row, and others
READ = 40  # while a file is read row by row, before anything is looked at
FEATURES = 2800  # more, where a model with features of 384 numbers looks at rows of some 60 tokens
BASE = 650_000_000  # whatever the rows are: the libraries, and the texts that are hashed at once
# How many bytes of memory each byte of the file takes: after reading, while reading line by line,
# and while reading the file as a whole. While it is read, a text is in memory twice. The first two
# include a buffer that is up to an eighth larger than its content.
_KEPT, _READ, _WHOLE = 1.1, 2.2, 2.0


def expected(
    source: str, model: bool, limit: int | None = None, whole: bool = False
) -> tuple[int, int] | None:
    """Returns about how many rows a file has, and the bytes of memory that looking at them takes;
    None where that cannot be told before it is read.

    Args:
        source: the file.
        model: whether a model looks at them.
        limit: rows that are looked at, if not all; all are read.
        whole: whether it is read as a whole in any case.
    """
    rows = rows_in(source)
    if rows is None:
        return None
    size = Path(source).stat().st_size
    looked = rows if limit is None else min(rows, limit)
    features = FEATURES * looked if model else 0
    if whole or not source.lower().endswith(STREAMED):
        return rows, int(BASE + rows * WHOLE + features + _WHOLE * size)
    read = rows * READ + _READ * size
    look = looked * LEAN + features + _KEPT * size * looked / max(1, rows)
    return rows, int(BASE + max(read, look))


def free() -> int | None:
    """Returns the bytes of memory that are free; None where the system does not say."""
    with suppress(OSError, StopIteration, ValueError, IndexError):  # Linux alone has this file
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_room(source: str, model: bool, limit: int | None = None, whole: bool = False) -> None:
    """Raises `DataError` if the rows of a file would not fit into the memory that is free.

    Args:
        source, model, limit, whole: as in `expected`.
    """
    found, there = expected(source, model, limit, whole), free()
    if found is None or there is None or found[1] <= there:
        return
    rows, needed = found
    fit = int(rows * max(0, there - BASE) / (needed - BASE))
    remedies = []
    few = _fewer(source, model, there, rows, whole) if limit is None else None
    if few:
        remedies.append(f"look at some of them, --limit {few}")
    if model:
        remedies.append("look for repeats alone, --model none")
    remedies.append(f"give it {fit:,} of them at the most")
    if whole or not source.lower().endswith(STREAMED):
        remedies.append("write them as JSON lines or Parquet, which are read row by row")
    why = ", since in this form it is read as a whole" if whole else ""
    raise DataError(
        f"{source} has about {rows:,} rows; looking at them takes about {needed / 1e9:,.1f} GB of "
        f"memory ({(needed - BASE) / max(1, rows) / 1e3:.1f} kB a row{why}), and "
        f"{there / 1e9:,.1f} GB are free: {'; or '.join(remedies)}"
    )


def _fewer(source: str, model: bool, there: int, rows: int, whole: bool) -> int:
    """Returns how many rows can be looked at in this much memory, as two digits and zeros; 0 if
    reading them all takes more."""
    low, high = 0, rows
    while low < high:
        middle = (low + high + 1) // 2
        found = expected(source, model, middle, whole)
        if found is not None and found[1] <= there:
            low = middle
        else:
            high = middle - 1
    zeros = 10 ** max(0, len(str(low)) - 2)
    return int(low // zeros * zeros)
