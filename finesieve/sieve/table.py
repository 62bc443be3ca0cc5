"""A small table of named columns, as pandas, polars or Arrow by request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from finesieve.errors import ConfigError


class Table(Mapping[str, Any]):
    """Named columns of one length: `table["loss"]`, `len(table)` columns, `table.rows` rows.

    Args:
        columns: arrays or lists by name.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = dict(columns)
        self.rows = len(next(iter(self._columns.values()), ()))

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Table({self.rows} rows: {', '.join(self)})"

    def records(self) -> Iterator[dict[str, Any]]:
        """Yields each row as a dict."""
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(self._columns, values, strict=True))

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame`."""
        return _package("pandas").DataFrame(self._columns)

    def to_polars(self) -> Any:
        """Returns a `polars.DataFrame`."""
        return _package("polars").DataFrame(self._columns)

    def to_arrow(self) -> Any:
        """Returns a `pyarrow.Table`."""
        return _package("pyarrow").table(self._columns)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"this needs {name}: pip install {name}") from None
