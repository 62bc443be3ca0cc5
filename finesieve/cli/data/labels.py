"""Labels: classes as whole numbers or text, numbers to predict, and what marks a missing one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from finesieve.errors import DataError

# A float only of a regression; a tuple of several classes an example, or of a tag a word.
Label = int | str | float | tuple[int | str, ...]
UNLABELLED = ("refuse", "drop", "keep")

# What programs write where a value is missing. "-" is SNLI's, where annotators did not agree.
_MISSING = ("nan", "NaN", "NaT", "<NA>", "#N/A", "\\N", "NULL", "null", "-")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)(\.0+)?")  # "007" is a name, not a 7
_REAL = re.compile(r"-?\d+[.,]\d+")
_HINT = "to learn numbers, `finesieve train` and `finesieve compare` have --task regression"
_LISTS = (
    "`finesieve train` and `finesieve compare` serve several labels a text with --task "
    "multi-label, and a tag for each word with --task token-labels"
)
_AMOUNTS, _EACH = 20, 5  # more whole numbers than this, on so few rows each, are hardly classes


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
                f"whole numbers ({_HINT})"
            )
        return int(value)
    if isinstance(value, str):
        return value.strip()
    raise DataError(
        f"{source}, example {number}: {column!r} is a {type(value).__name__}; expected one class "
        "an example, as text or a whole number" + f" ({_LISTS})" * isinstance(value, (list, tuple))
    )


def as_name(source: str, number: int, column: str, value: Any) -> int | str:
    """Returns one of several labels as whole number or text.

    Raises:
        DataError: for what is no class, and for nothing.
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise DataError(
            f"{source}, example {number}: a label in {column!r} is empty ({value!r}); expected "
            "text or a whole number"
        )
    found = as_label(source, number, column, value)
    return found if isinstance(found, str) else int(found)  # type: ignore[arg-type]


def is_missing_value(value: Any) -> bool:
    """Returns whether a cell has no number, or the word that programs write for none."""
    return is_missing(value) or (isinstance(value, str) and value.strip() in ("", *_MISSING))


def as_value(source: str, number: int, column: str, value: Any) -> float:
    """Returns a number to predict.

    Raises:
        DataError: for what is no finite number.
    """
    found = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            found = float(value)
    if math.isfinite(found):
        return found
    comma = isinstance(value, str) and _REAL.fullmatch(value.strip())
    raise DataError(
        f"{source}, example {number}: {column!r} is {value!r:.40}; --task regression expects a "
        "finite number"
        + (", with a decimal point instead of the comma" if comma else "")
        + " (is it the right column? --label names another one)"
    )


def number_to_predict(labels: Iterable[Any]) -> str:
    """Returns a label that shows that labels are numbers to predict, not classes; "" if they are
    classes.

    They are numbers if all that are not missing are, and one of them is not whole.
    """
    found, before = "", None
    for value in labels:
        if value is before:  # often the same object
            continue
        before = value
        if is_missing_value(value):
            continue
        text = value.strip() if isinstance(value, str) else str(value)
        if isinstance(value, float):
            real = math.isfinite(value) and value != int(value)
        elif isinstance(value, str):
            real = _REAL.fullmatch(text) is not None and text.rstrip("0")[-1] not in ".,"
            if not (real or _REAL.fullmatch(text) or _WHOLE.fullmatch(text)):
                return ""
        elif isinstance(value, int) and not isinstance(value, bool):
            real = False
        else:
            return ""
        found = found or (text if real else "")
    return found


def amounts_hint(labels: Sequence[Label]) -> str:
    """Return a hint where classes are probably amounts: many whole numbers, each on few rows; ""
    else."""
    many = len(set(labels))
    few = many > _AMOUNTS and len(labels) < _EACH * many
    if not few or not all(isinstance(x, int) for x in labels):
        return ""
    return (
        f"{many} different whole numbers are the labels of {len(labels)} examples: if they are "
        "amounts rather than classes, say --task regression"
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
    known = [x for x in counts if not isinstance(x, tuple)]
    whole = {int(float(x)) for x in known if not isinstance(x, str) or _WHOLE.fullmatch(x)}
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
            f"numbers ({_HINT})"
        )
    if all(x.startswith("[") and x.endswith("]") for x in names):
        raise DataError(
            f"{source}: {column!r} holds lists like {min(names)}; expected one class an example "
            f"({_LISTS})"
        )
    return [str(x) for x in labels]


def whole_or_text(sets: Sequence[tuple[int | str, ...]]) -> list[tuple[int | str, ...]]:
    """Return labels, several an example, as whole numbers if all are written as such; else as
    text."""
    names = {x for one in sets for x in one}
    if all(isinstance(x, int) or re.fullmatch(_WHOLE, x) for x in names):
        return [tuple(int(float(x)) for x in one) for one in sets]
    return [tuple(map(str, one)) for one in sets]


def alike(labels: Sequence[Label]) -> list[str]:
    """Return classes that differ only in upper and lower case, or in spaces: 'Pos', 'pos'."""
    spelt: dict[str, list[str]] = {}
    for name in dict.fromkeys(x for x in labels if isinstance(x, str)):
        spelt.setdefault(" ".join(name.lower().split()), []).append(name)
    return [", ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
