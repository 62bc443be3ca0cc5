"""Readers of labels: one for each task, found by the task's name in `READERS`."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any

from finesieve.cli.data.columns import Columns, Row, find_columns, find_word_columns
from finesieve.cli.data.labels import (
    Label,
    as_label,
    as_name,
    as_value,
    is_missing,
    is_missing_value,
    numbers_if_all_are,
    whole_or_text,
)
from finesieve.errors import DataError

Words = tuple[str, ...]
SEPARATORS = "|;,"  # between the labels of one cell; the first that any cell has is taken
_SETS = ("labels", "label", "tags", "classes", "categories", "topics", "genres")


class Reader(ABC):
    """Turns the cells of a table into texts and labels, in the way of one task.

    Attributes:
        task: its name, as `--task` takes it.
        doubts: whether labels like nan or -1 may stand for a missing one.
    """

    task: str
    doubts = False

    def columns(
        self,
        source: str,
        rows: Sequence[Row],
        text: str | None,
        pair: str | None,
        label: str | None,
    ) -> Columns:
        """Returns the names of the columns: text, its pair (or None), label."""
        return find_columns(source, rows, text, pair, label)

    def missing(self, value: Any) -> bool:
        """Returns whether a cell has no label."""
        return is_missing(value)

    def text(self, value: Any) -> tuple[Any, Words | None]:
        """Returns the text of a cell; and its words, for a task in which each word has a label."""
        return value, None

    @abstractmethod
    def label(self, source: str, number: int, column: str, value: Any) -> Label:
        """Returns the label of a cell.

        Raises:
            DataError: if the cell holds nothing that could be a label of this task.
        """

    def settle(
        self,
        source: str,
        column: str,
        labels: list[Label],
        rows: Sequence[int],
        names: Sequence[str] | None,
    ) -> tuple[list[Label], list[str]]:
        """Returns the final labels, and notes for the user.

        Some things show only when all cells are known: whether all labels are whole numbers, say,
        or by which sign the labels of one cell are separated.

        Args:
            labels: of all examples.
            rows: each one's row in the source.
            names: of the labels that are numbers, by number; None if nobody gave them.
        """
        return labels, []

    def shown(self, label: Label, text: str, words: Words | None) -> str:
        """Returns the line that stands for an example on a page: its label and its text."""
        return f"[{label}] {text}"


class OneClass(Reader):
    """Reads one class an example, as text or a whole number."""

    task = "classification"
    doubts = True

    def label(self, source: str, number: int, column: str, value: Any) -> Label:
        """Returns the class of a cell."""
        return as_label(source, number, column, value)

    def settle(
        self,
        source: str,
        column: str,
        labels: list[Label],
        rows: Sequence[int],
        names: Sequence[str] | None,
    ) -> tuple[list[Label], list[str]]:
        """Returns whole numbers if all labels are written as such, else texts."""
        return numbers_if_all_are(source, column, labels), []


class Numbers(Reader):
    """Reads a number an example."""

    task = "regression"

    def missing(self, value: Any) -> bool:
        """Returns whether a cell has no number."""
        return is_missing_value(value)

    def label(self, source: str, number: int, column: str, value: Any) -> Label:
        """Returns the number of a cell."""
        return as_value(source, number, column, value)


class SeveralClasses(Reader):
    """Reads any number of classes an example: a list, or a cell like `a|b`."""

    task = "multi-label"

    def columns(
        self,
        source: str,
        rows: Sequence[Row],
        text: str | None,
        pair: str | None,
        label: str | None,
    ) -> Columns:
        """Returns the names of the columns; `labels` is preferred to `label`."""
        return find_columns(source, rows, text, pair, label, _SETS)

    def label(self, source: str, number: int, column: str, value: Any) -> Label:
        """Returns the labels of a cell; the whole text if it may hold several, which `settle`
        splits."""
        listed = as_list(value)
        if listed is None:
            return as_label(source, number, column, value)
        return tuple(as_name(source, number, column, one) for one in listed)

    def settle(
        self,
        source: str,
        column: str,
        labels: list[Label],
        rows: Sequence[int],
        names: Sequence[str] | None,
    ) -> tuple[list[Label], list[str]]:
        """Returns a tuple of labels for each example. Cells such as `a|b` are split; lists of 0 and
        1 become the labels at the places of the ones."""
        notes = []
        cells = [x for x in labels if isinstance(x, str)]
        mark = next((c for c in SEPARATORS if any(c in x for x in cells)), None)
        if mark is not None:
            notes.append(f"{source}: {column!r} is split at {mark!r}")
        sets = [_split(x, mark) for x in labels]
        if _are_marks(sets):
            notes.append(f"{source}: {column!r} holds lists of 0 and 1, a place for each label")
            sets = [tuple(i for i, y in enumerate(x) if y) for x in sets]
        known = _named(source, column, sets, rows, names)
        return [tuple(dict.fromkeys(x)) for x in known], notes

    def shown(self, label: Label, text: str, words: Words | None) -> str:
        """Returns an example with its labels before it."""
        many = label if isinstance(label, tuple) else (label,)
        return f"[{', '.join(map(str, many)) or 'no label'}] {text}"


class WordTags(Reader):
    """Reads words and a tag for each of them: lists, or cells with spaces between the words."""

    task = "token-labels"

    def columns(
        self,
        source: str,
        rows: Sequence[Row],
        text: str | None,
        pair: str | None,
        label: str | None,
    ) -> Columns:
        """Returns the names of the columns of words and tags."""
        return find_word_columns(source, rows, text, label)

    def text(self, value: Any) -> tuple[Any, Words | None]:
        """Returns the words joined by spaces as the text, and the words themselves."""
        listed = as_list(value)
        words = listed if listed is not None else value.split() if isinstance(value, str) else None
        if words is None or not all(isinstance(w, str) for w in words):
            return value, None  # the check of texts refuses it, and says why
        return " ".join(words), tuple(words)

    def label(self, source: str, number: int, column: str, value: Any) -> Label:
        """Returns the tags in a cell, one for each word of the example.

        Raises:
            DataError: if the cell is neither a list nor a text.
        """
        listed = as_list(value)
        if listed is None and isinstance(value, str):
            listed = value.split()
        if listed is None:
            raise DataError(
                f"{source}, example {number}: {column!r} is {value!r:.40}; --task token-labels "
                "expects a tag for each word, as a list or with spaces between them"
            )
        return tuple(as_name(source, number, column, one) for one in listed)

    def settle(
        self,
        source: str,
        column: str,
        labels: list[Label],
        rows: Sequence[int],
        names: Sequence[str] | None,
    ) -> tuple[list[Label], list[str]]:
        """Returns a tuple of tags for each example; numbers are replaced by the names given for
        them."""
        sets = [x for x in labels if isinstance(x, tuple)]
        return list(_named(source, column, sets, rows, names)), []

    def shown(self, label: Label, text: str, words: Words | None) -> str:
        """Returns the words, with the tags of those whose tag is not O."""
        pairs = zip(words or (), label if isinstance(label, tuple) else (), strict=False)
        return " ".join(w if tag in ("O", 0) else f"{w}/{tag}" for w, tag in pairs)


READERS: dict[str, Reader] = {
    r.task: r for r in (OneClass(), Numbers(), SeveralClasses(), WordTags())
}


def as_list(value: Any) -> list[Any] | None:
    """Returns a cell as a list, if it is one or is the text of one, such as `["a", "b"]`; else
    None.

    Lists that pandas wrote into a CSV file are such texts.
    """
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        return found if isinstance(found, list) else None
    return None


def _split(label: Label, mark: str | None) -> tuple[int | str, ...]:
    if isinstance(label, tuple):
        return label
    if isinstance(label, str):
        parts = label.split(mark) if mark is not None else [label]
        return tuple(p.strip() for p in parts if p.strip())
    return (int(label),)


def _are_marks(sets: list[tuple[int | str, ...]]) -> bool:
    """Returns whether these are lists of 0 and 1, one place for each label.

    Such lists all have the same length, and some holds a number twice, which a list of distinct
    class numbers would not.
    """
    lengths = {len(x) for x in sets}
    if len(lengths) != 1 or not lengths - {0, 1}:
        return False
    return any(len(set(x)) < len(x) for x in sets) and set(chain(*sets)) <= {0, 1}


def _named(
    source: str,
    column: str,
    sets: list[tuple[int | str, ...]],
    rows: Sequence[int],
    names: Sequence[str] | None,
) -> list[tuple[int | str, ...]]:
    """Replaces labels that are numbers by the names that the user gave for them.

    Without such names the labels stay: whole numbers if all of them are, texts otherwise.

    Raises:
        DataError: for a label that is not among the given names, with its row.
    """
    settled = whole_or_text(sets)
    if names is None:
        return settled
    known = set(names)
    out: list[tuple[int | str, ...]] = []
    for row, labels in zip(rows, settled, strict=True):
        for one in labels:
            if one not in known if isinstance(one, str) else not 0 <= one < len(names):
                raise DataError(
                    f"{source}, example {row}: {column!r} has {one!r}, which is none of the "
                    f"{len(names)} names that --label-names gives"
                    + (f" (numbers 0 to {len(names) - 1})" if isinstance(one, int) else "")
                )
        out.append(tuple(one if isinstance(one, str) else names[one] for one in labels))
    return out
