"""Columns of a data set by name, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finesieve.errors import DataError


def names_of(dataset: Any) -> list[str]:
    """Returns the names of the columns; of rows, those that the first one has."""
    for attribute in ("column_names", "columns"):  # of a `datasets.Dataset`, of a data frame
        have = getattr(dataset, attribute, None)
        if have is not None:
            return [str(name) for name in have]
    if isinstance(dataset, Mapping):
        return [str(name) for name in dataset]
    first = next(iter(dataset), None)
    return [str(name) for name in first] if isinstance(first, Mapping) else []


def column(dataset: Any, name: str) -> Iterable[Any]:
    """Returns the values of a column.

    Args:
        dataset: a mapping of lists, a `datasets.Dataset`, a data frame, or rows, each a mapping.
        name: of the column.

    Raises:
        DataError: if there is no such column, in all rows.
    """
    if hasattr(dataset, "column_names") or hasattr(dataset, "columns"):
        named = True
    else:
        named = isinstance(dataset, Mapping)
    if named:
        have = names_of(dataset)
        if name not in have:
            raise DataError(f"no column {name!r}; there are {', '.join(map(repr, have))}")
        values: Iterable[Any] = dataset[name]
        return values
    out = []
    for i, row in enumerate(dataset):
        if not isinstance(row, Mapping) or name not in row:
            raise DataError(f"row {i} has no {name!r}: expected a mapping with that key")
        out.append(row[name])
    return out
