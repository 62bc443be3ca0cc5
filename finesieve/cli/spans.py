"""What to know of predicted tags: entity F1 of spans, the recall of each type, token accuracy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

OUTSIDE = "O"
_TAG = re.compile(r"([BIESLU])-(.+)", re.S)

Span = tuple[str, int, int]  # type, first and last word


def are_spans(names: Sequence[Any]) -> bool:
    """Returns whether these tags mark spans: O, B-PER, I-PER and the like."""
    others = [name for name in names if name != OUTSIDE]
    return bool(others) and all(isinstance(x, str) and _TAG.fullmatch(x) for x in others)


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans that the tags of one sentence mark.

    A span is as long as tags of one type follow each other. It begins at B- (or S-, U-: a span of
    one word), and also at an I- (or E-, L-) that follows O or another type, as in the scorer of the
    shared task of CoNLL 2003, conlleval (Tjong Kim Sang and De Meulder 2003, "Introduction to the
    CoNLL-2003 shared task"); it ends after E-, L-, S- and U-. What is no such tag is outside.
    """
    found: set[Span] = set()
    kind, start, closed = "", 0, True
    for place, tag in enumerate([*tags, OUTSIDE]):
        match = _TAG.fullmatch(tag)
        prefix, now = (match[1], match[2]) if match else ("", "")
        goes_on = bool(now) and now == kind and not closed and prefix in "IEL"
        if not goes_on:
            if kind:
                found.add((kind, start, place - 1))
            kind, start = now, place
        closed = prefix in ("E", "L", "S", "U")
    return found


def tagging(
    predicted: Sequence[Sequence[str]], tags: Sequence[Sequence[str]], names: Sequence[Any]
) -> dict[str, Any]:
    """Judge the tags of sentences.

    Args:
        predicted, tags: by sentence, a tag for each word, by its name. A word that the model did
            not see has the predicted tag O, or "" where O is none of the names.
        names: of all tags.

    Returns `token_accuracy`, the share of words whose tag is right; `majority`, that of always
    naming the most frequent tag, which is `majority_tag`; `words`, how many there are; `only_tag`,
    the one tag that was predicted for every word while there are several, else None. If the tags
    mark spans: `entity_f1`, 2 tp / (predicted + there) over all spans, a span being right if its
    type, first and last word are; `entities`, how many there are; and `classes`, of each type its
    `name`, `n` (spans that there are), `predicted`, `recall` and `precision` (None where it has
    none of them). If they do not: `macro_f1`, the mean of F1 over the tags that occur, and
    `classes` likewise of each tag. Shares are in [0, 1].
    """
    flat = [
        (a, b)
        for one, two in zip(predicted, tags, strict=True)
        for a, b in zip(one, two, strict=True)
    ]
    actual = Counter(b for _, b in flat)
    guessed = {a for a, _ in flat if a}  # "": a word that the model was not shown
    most, count = max(actual.items(), key=lambda item: (item[1], item[0]))
    total = len(flat)
    out: dict[str, Any] = {
        "token_accuracy": sum(a == b for a, b in flat) / total,
        "majority": count / total,
        "majority_tag": most,
        "words": total,
        "only_tag": next(iter(guessed)) if len(guessed) == 1 < len(actual) else None,
    }
    if are_spans(names):
        there, found, right = Counter[str](), Counter[str](), Counter[str]()
        for one, two in zip(predicted, tags, strict=True):
            mine, theirs = spans(one), spans(two)
            there.update(kind for kind, *_ in theirs)
            found.update(kind for kind, *_ in mine)
            right.update(kind for kind, *_ in mine & theirs)
        both = there.total() + found.total()
        kinds = sorted({match[2] for name in names if (match := _TAG.fullmatch(str(name)))})
        out["entity_f1"] = 2 * right.total() / both if both else 0.0
        out["entities"] = there.total()
    else:
        there, found = actual, Counter(a for a, _ in flat)
        right, kinds = Counter(b for a, b in flat if a == b), [str(name) for name in names]
        met = [k for k in kinds if there[k] + found[k]]
        out["macro_f1"] = float(np.mean([2 * right[k] / (there[k] + found[k]) for k in met]))
    out["classes"] = [
        {
            "name": kind,
            "n": there[kind],
            "predicted": found[kind],
            "recall": right[kind] / there[kind] if there[kind] else None,
            "precision": right[kind] / found[kind] if found[kind] else None,
        }
        for kind in kinds
    ]
    return out
