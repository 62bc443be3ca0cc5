"""Whether the machine has the memory that a look at a data set takes, before it is read."""

from __future__ import annotations

import os
from pathlib import Path

from finesieve.cli.data.streaming import LEAN as STREAMED
from finesieve.cli.data.streaming import rows_in
from finesieve.errors import DataError

# Bytes a row beside its text, as measured with texts of 130 bytes (results/insight/memory.json).
LEAN, WHOLE = 350, 1000  # files that are read row by row, and others
FEATURES = 2500  # more, where a model with features of 384 numbers looks at the rows
BASE = 400_000_000  # whatever the rows are: the libraries, and the texts that are hashed at once
_TEXT = 2.0  # bytes in memory for one in the file: the text, and what is made of it


def expected(
    source: str, model: bool, limit: int | None = None, whole: bool = False
) -> tuple[int, int] | None:
    """Returns about how many rows a file has, and the bytes of memory that looking at them takes;
    None where that cannot be told before it is read.

    Args:
        source: the file.
        model: whether a model looks at them.
        limit: rows that are looked at, if not all.
        whole: whether it is read as a whole in any case.
    """
    rows = rows_in(source)
    if rows is None:
        return None
    lean = source.lower().endswith(STREAMED) and not whole
    looked = rows if limit is None else min(rows, limit)
    features = FEATURES * looked if model else 0
    each = LEAN if lean else WHOLE
    return rows, int(BASE + rows * each + features + _TEXT * Path(source).stat().st_size)


def free() -> int | None:
    """Returns the bytes of memory that are free; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
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
    remedies = [f"give it {fit:,} of them at the most"]
    if model:
        remedies.append("look at fewer of them (--limit), or for repeats alone (--model none)")
    if whole or not source.lower().endswith(STREAMED):
        remedies.append("write them as JSON lines or Parquet, which are read row by row")
    why = ", since in this form it is read as a whole" if whole else ""
    raise DataError(
        f"{source} has about {rows:,} rows; looking at them takes about {needed / 1e9:,.1f} GB of "
        f"memory ({(needed - BASE) / max(1, rows) / 1e3:.1f} kB a row{why}), and "
        f"{there / 1e9:,.1f} GB are free: {'; or '.join(remedies)}"
    )
