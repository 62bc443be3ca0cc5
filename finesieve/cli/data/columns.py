"""Finds the text, second text and label columns, by the user's names or by usual ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from finesieve.cli.data.lean import names_of
from finesieve.errors import DataError

Row = dict[str, Any]
Columns = tuple[str, str | None, str]

TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "headline",
    "query",
    "utterance",
    "question",
    "title",
    "comment",
    "tweet",
    "docstring",
)
PAIRS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
)
# Columns that go together, but only where none is simply called "text".
WEAK_PAIRS = (("question", "sentence"), ("question", "answer"))
LABELS = (
    "label",
    "labels",
    "gold_label",
    "class",
    "category",
    "intent",
    "target",
    "sentiment",
)
WORDS = ("tokens", "words", "text", "sentence")
TAGS = ("ner_tags", "tags", "labels", "label", "ner", "slots", "pos_tags", "upos")
_DATA = re.compile(r"-?\d+(\.\d+)?|(\S+\s+){3,}\S+")  # a number, or four words


def find_columns(
    source: str,
    rows: Sequence[Row],
    text: str | None,
    pair: str | None,
    label: str | None,
    labels: Sequence[str] = LABELS,
) -> Columns:
    """Return the names of the columns: text, its pair (or None), label.

    Args:
        source: of the rows, for messages.
        text, pair, label: as named by the user; None to find them.
        labels: the usual names of label columns.

    Raises:
        DataError: with the columns that there are.
    """
    have = _columns(source, rows, text, pair, label)
    lower = {name.lower(): name for name in reversed(have)}
    if label is None:
        label = next((lower[n] for n in labels if n in lower), None)
        if label is None:
            raise DataError(_which(source, "label", have))
    if text is None:
        weak = () if "text" in lower else WEAK_PAIRS
        for a, b in (*PAIRS, *weak):
            if pair is None and a in lower and b in lower and label not in (lower[a], lower[b]):
                return lower[a], lower[b], label
        text = next((lower[n] for n in TEXTS if n in lower and lower[n] not in (label, pair)), None)
    if text is None:
        wordy = [
            n
            for n in have
            if n not in (label, pair)
            and isinstance(next((r[n] for r in rows if r.get(n) is not None), None), str)
        ]
        if len(wordy) != 1:
            raise DataError(_which(source, "text", have))
        text = wordy[0]
    return text, pair, label


def find_word_columns(
    source: str, rows: Sequence[Row], words: str | None, tags: str | None
) -> tuple[str, None, str]:
    """Return the names of the columns of words and of their tags, and None between them.

    Args:
        words, tags: as named by the user (`--text` and `--label`); None to find them.

    Raises:
        DataError: with the columns that there are.
    """
    have = _columns(source, rows, words, tags)
    lower = {name.lower(): name for name in reversed(have)}
    found = [
        given if given is not None else next((lower[n] for n in usual if n in lower), None)
        for given, usual in ((words, WORDS), (tags, TAGS))
    ]
    for name, what, option in zip(found, ("words", "tags"), ("text", "label"), strict=True):
        if name is None:
            raise DataError(_which(source, option, have, f"column holds the {what}"))
    return str(found[0]), None, str(found[1])


def _columns(source: str, rows: Sequence[Row], *named: str | None) -> list[str]:
    """Return the names of the columns.

    Raises:
        DataError: if one that the user named is none of them.
    """
    have = names_of(rows)
    for given in named:
        if given is not None and given not in have:
            near = get_close_matches(given, have, n=1)
            raise DataError(
                f"{source} has no column {given!r}; it has {', '.join(map(repr, have))}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    return have


def has_label(rows: Sequence[Row]) -> bool:
    """Returns whether a column has one of the usual names for labels."""
    return any(name.lower() in LABELS for name in names_of(rows))


def told(source: str, columns: Columns, rows: Sequence[Row]) -> str:
    """Returns a line that names the columns that were taken, and the others."""
    text, pair, label = columns
    others = [repr(n) for n in names_of(rows) if n not in columns]
    shown = ", ".join(others[:6]) + (", ..." if len(others) > 6 else "")
    return (
        f"{source}: text {text!r}"
        + (f", second text {pair!r}" if pair else "")
        + f", label {label!r}"
        + (f"; not used: {shown}" if others else "")
    )


def _which(source: str, what: str, have: list[str], question: str = "") -> str:
    message = (
        f"{source}: which {question or f'column is the {what}'}? Name it with --{what}; there are "
        f"{', '.join(f'{n:.40}' if len(n) > 40 else repr(n) for n in have)}"
    )
    if not question and any(n.lower() in WORDS[:2] for n in have):
        message += " (words with a tag each are trained on with --task token-labels)"
    if len(have) == 1 and not have[0].isidentifier():
        return (
            f"{message}, the whole first line: expected a comma, semicolon, tab or | between cells"
        )
    if any(_DATA.fullmatch(n.strip()) for n in have):
        return f"{message}. That looks like a row: put a header line above it, e.g. text,label"
    return message
