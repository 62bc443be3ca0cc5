"""Labels: classes as whole numbers or text, and what only marks a missing one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from finesieve.errors import DataError

Label = int | str
UNLABELLED = ("refuse", "drop", "keep")

# What programs write where a value is missing. "-" is SNLI's, where annotators did not agree.
_MISSING = ("nan", "NaN", "NaT", "<NA>", "#N/A", "\\N", "NULL", "null", "-")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0+)?")  # "007" is a name, not a 7
_REAL = re.compile(r"-?\d+[.,]\d+")


def is_missing(value: Any) -> bool:
    """Returns whether a cell has no value."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def as_label(source: str, number: int, column: str, value: Any) -> Label:
    """Returns a class as whole number or text; text that looks like a number is judged later.

    Raises:
        DataError: for what is no class.
    """
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise DataError(
                f"{source}, example {number}: {column!r} is {value}; expected classes, as text or "
                "whole numbers (this command trains classifiers, not regressions)"
            )
        return int(value)
    if isinstance(value, str):
        return value.strip()
    raise DataError(
        f"{source}, example {number}: {column!r} is a {type(value).__name__}; expected one class "
        "an example, as text or a whole number"
    )


def doubtful(labels: Sequence[Label]) -> Label | None:
    """Return a label that probably stands for a missing one, if there is one.

    That is what programs write for a missing value, and -1 beside 0, 1, 2; beside 0 and 1 only if
    it is rare, since it may be an opinion then.
    """
    counts = Counter(labels)
    for word in _MISSING:
        if word in counts and len(counts) > 1 and not (word == "-" and "+" in counts):
            return word
    whole = {int(float(x)) for x in counts if isinstance(x, int) or _WHOLE.fullmatch(x)}
    if len(whole) == len(counts) and min(whole, default=0) == -1 and {0, 1} <= whole:
        name = next(x for x in counts if str(x) in ("-1", "-1.0"))
        if max(whole) > 1 or counts[name] < 0.05 * len(labels):
            return name
    return None


def numbers_if_all_are(source: str, column: str, labels: list[Label]) -> list[Label]:
    """Return text labels as whole numbers if every one is written as such, else all as text."""
    names = {x for x in labels if isinstance(x, str)}
    if not names:
        return labels
    if all(_WHOLE.fullmatch(x) for x in names):
        return [int(x.split(".")[0]) if isinstance(x, str) else x for x in labels]
    if all(_REAL.fullmatch(x) or _WHOLE.fullmatch(x) for x in names):
        some = next(x for x in labels if isinstance(x, str) and not _WHOLE.fullmatch(x))
        raise DataError(
            f"{source}: {column!r} holds numbers like {some}; expected classes, as text or whole "
            "numbers (this command trains classifiers, not regressions)"
        )
    if all(x.startswith("[") and x.endswith("]") for x in names):
        raise DataError(
            f"{source}: {column!r} holds lists like {min(names)}; expected one class an example"
        )
    return [str(x) for x in labels]


def alike(labels: Sequence[Label]) -> list[str]:
    """Return classes that differ only in upper and lower case, or in spaces: 'Pos', 'pos'."""
    spelt: dict[str, list[str]] = {}
    for name in dict.fromkeys(x for x in labels if isinstance(x, str)):
        spelt.setdefault(" ".join(name.lower().split()), []).append(name)
    return [", ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
