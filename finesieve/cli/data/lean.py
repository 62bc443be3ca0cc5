"""Rows of a large file of which the needed columns alone are kept, and texts as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finesieve.insight.packed import MadeWhenAsked, Packed

Row = dict[str, Any]
_WORDS = 100_000  # different labels of which one object each is kept


class Lean(MadeWhenAsked[Row]):
    """Rows of texts and a label each, which are made into a dict when they are asked for.

    A row that has something else in these columns, or lacks one, is kept as it is.

    Args:
        texts: names of the columns of texts.
        label: name of the column of labels, None if there is none.
    """

    def __init__(self, texts: Sequence[str], label: str | None) -> None:
        self._names, self._label = tuple(texts), label
        self._texts = [Packed() for _ in texts]
        self._labels: list[Any] = []
        self._odd: dict[int, Row] = {}
        self._all: dict[str, None] = {}  # the names of columns, in order
        self._words: dict[str, str] = {}

    def append(self, row: Row, whole: bool = False) -> None:
        """Adds a row.

        Args:
            row: all of it.
            whole: whether columns that are not needed are kept, too.
        """
        texts = [row.get(name) for name in self._names]
        plain = all(isinstance(text, str) for text in texts)
        if whole or not plain or (self._label is not None and self._label not in row):
            self._odd[len(self)] = row
            self._all.update(dict.fromkeys(row))
            texts = [""] * len(texts)
        for column, text in zip(self._texts, texts, strict=True):
            column.append(str(text))
        label = None if self._label is None else row.get(self._label)
        if isinstance(label, str):  # the same word again and again is one object
            known = self._words.get(label)
            if known is None and len(self._words) < _WORDS:
                self._words[label] = label
            label = label if known is None else known
        self._labels.append(label)

    def fill(self, label: str, value: Any) -> None:
        """Gives all rows this label, in a column that they need not have."""
        self._label, self._labels = label, [value] * len(self)
        for row in self._odd.values():
            row[label] = value
        self._all[label] = None

    def names(self) -> list[str]:
        """Returns the names of all columns, in the order in which they come up."""
        plain = [] if len(self._odd) == len(self) else [*self._names, self._label]
        return list(dict.fromkeys([*self._all, *(name for name in plain if name is not None)]))

    def __len__(self) -> int:
        return len(self._labels)

    def _item(self, at: int) -> Row:
        odd = self._odd.get(at)
        if odd is not None:
            return odd
        row: Row = {name: column[at] for name, column in zip(self._names, self._texts, strict=True)}
        if self._label is not None:
            row[self._label] = self._labels[at]
        return row


def names_of(rows: Sequence[Row]) -> list[str]:
    """Returns the names of all columns of some rows, in the order in which they come up."""
    if isinstance(rows, Lean):
        return rows.names()
    return list(dict.fromkeys(name for row in rows for name in row))
