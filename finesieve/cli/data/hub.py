"""Datasets of a hub, by their id, with the names of their classes."""

from __future__ import annotations

from typing import Any

from finesieve.cli.data.names import put_names
from finesieve.cli.network import hub_if_there
from finesieve.errors import DataError, install

Row = dict[str, Any]


def read_hub(source: str, split: str) -> list[Row]:
    """Return the rows of a hub dataset; a class is its name, -1 (no label) is None.

    Args:
        source: an id, or "id:split".
        split: the one to read if the source names none.

    Raises:
        DataError: where it cannot be loaded, for whatever reason.
    """
    name, _, part = source.partition(":")
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"no file {source}; to read it as a hub dataset install the extra: {install('hub')}"
        ) from None
    try:
        with hub_if_there(datasets.config):
            found = datasets.load_dataset(name, split=part or split)
    except Exception as error:  # the hub raises dozens of kinds
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"no file {source}, and it could not be loaded as a hub dataset: {first}"
        ) from None
    names = {
        column: feature.names
        for column, feature in found.features.items()
        if getattr(feature, "names", None)
    }
    rows: list[Row] = [dict(row) for row in found]
    for column, classes in names.items():
        for row in rows:
            if isinstance(row[column], int):
                row[column] = classes[row[column]] if row[column] >= 0 else None
    lists = {
        column: list(feature.feature.names)
        for column, feature in found.features.items()
        if getattr(getattr(feature, "feature", None), "names", None)
    }
    return put_names(rows, lists)
