"""One pass over a data set with a frozen model, and all that it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.errors import ConfigError, DataError
from finesieve.insight.curves import gradient_sizes, learning_curve
from finesieve.insight.embed import Embedded, embed
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.insights import Data, Insights
from finesieve.insight.labels import judge
from finesieve.insight.repeats import repeats

Ints = npt.NDArray[np.int64]
FEWEST = 100  # rows below which labels are not judged
_LOOKED_UP = 2_000  # issues for which the nearest contradicting row is looked up


def inspect(
    model: nn.Module | None,
    dataset: Any,
    *,
    tokenizer: Any = None,
    text: str = "text",
    text_pair: str | None = None,
    label: str | None = "label",
    names: Sequence[str] | None = None,
    max_length: int = 128,
    folds: int = 5,
    pool: str = "auto",
    seed: int = 0,
) -> Insights:
    """Looks a data set of labelled texts over: wrong labels, repeats, what is hard, what is enough.

    Nothing is trained but small heads: each text goes through the model once, and heads are
    fitted to its features, so that each row is judged by one that has not seen it.

    Args:
        model: a Hugging Face model, trained on the data or not; None finds repeats alone.
        dataset: columns by name (a mapping of lists, a `datasets.Dataset`, a data frame), or rows,
            each a mapping.
        tokenizer: the model's.
        text, text_pair, label: names of columns; `label=None` if there are no labels.
        names: of the classes, where labels are whole numbers.
        max_length: tokens that the model is shown of a text.
        folds: of the cross-fitting.
        pool: what the features are, see `finesieve.insight.embed.embed`.
        seed: of all that is drawn by chance.

    Returns:
        Tables, sentences, a page and exports: see `Insights`.

    Raises:
        ConfigError: for settings that contradict each other.
        DataError: for columns that are not there, or rows without a label.
    """
    if model is not None and tokenizer is None:
        raise ConfigError("a model needs its tokenizer: inspect(model, dataset, tokenizer=...)")
    texts = [str(x) if x is not None else "" for x in _column(dataset, text)]
    pairs = None if text_pair is None else [str(x or "") for x in _column(dataset, text_pair)]
    given = None if label is None else list(_column(dataset, label))
    if not texts:
        raise DataError("the data set is empty: expected a row per example")
    rows = np.arange(len(texts))
    numbers, found = (None, ()) if given is None else _numbers(given, names)
    data = Data("", texts, pairs, numbers, found, rows)
    return look(model, tokenizer, data, max_length=max_length, folds=folds, pool=pool, seed=seed)


def look(
    model: nn.Module | None,
    tokenizer: Any,
    data: Data,
    *,
    max_length: int = 128,
    folds: int = 5,
    pool: str = "auto",
    seed: int = 0,
    tell: Callable[[str, float], None] = lambda what, share: None,
    **more: Any,
) -> Insights:
    """Returns what `inspect` does, of data that are read already.

    Args:
        model, tokenizer, data, max_length, folds, pool, seed: as in `inspect`.
        tell: is told what is done, and the share of it.
        more: fields of `Insights` that are known already.
    """
    if folds < 2:
        raise ConfigError(f"folds is {folds}; expected 2 or more")
    joined = [data.text(i) for i in range(len(data))]
    tell("repeats", 0.0)
    exact, near = repeats(joined, seed)
    notes = list(more.pop("notes", ()))
    if model is None:
        return Insights(
            data,
            exact,
            near,
            notes=(*notes, "Without a model, labels and lengths are not looked at."),
            **more,
        )
    seen = embed(
        model,
        tokenizer,
        data.texts,
        data.pairs,
        max_length=max_length,
        pool=pool,
        tell=lambda share: tell("texts", share),
    )
    known = {"tokens": seen.tokens, "cut": seen.cut, "limit": seen.limit, **more}
    why = _unjudgeable(data, near, seen)
    if why:
        return Insights(data, exact, near, notes=(*notes, why), **known)
    labels = data.labels
    assert labels is not None
    tell("labels", 0.0)
    heads = Heads(seen.features, labels, len(data.names), seed)
    p = heads.out_of_fold(folds_of(labels, near, folds, seed))
    judged = judge(p, labels, seed)
    everything = np.arange(len(data))
    tell("enough", 0.0)
    return Insights(
        data,
        exact,
        near,
        probabilities=p,
        judged=judged,
        sizes=gradient_sizes(p.astype(np.float64), labels),
        contradicting=_contradicting(seen.features, labels, judged.issues, judged.suggested),
        unlearned=heads.fitted(everything)(everything).argmax(axis=1) != labels,
        curve=learning_curve(heads, labels, p.astype(np.float64), seed),
        notes=notes,
        how=f"Every row was judged by a head on the frozen model's features that was fitted to the "
        f"other rows ({folds} folds; copies of a text share a fold).",
        **known,
    )


def _unjudgeable(data: Data, near: Ints, seen: Embedded) -> str:
    """Returns why the labels cannot be judged, in a sentence; empty if they can."""
    if data.labels is None:
        return "There are no labels, so only repeats and lengths were looked at."
    if len(data) < FEWEST:
        return f"{len(data)} rows are too few to judge labels by; it takes {FEWEST}."
    counts = np.bincount(data.labels, minlength=len(data.names))
    if (counts > 0).sum() < 2:
        return "All rows have the same label, so labels could not be judged."
    distinct = len(np.unique(near))
    if distinct < 2 or float(np.ptp(seen.features, axis=0).max()) == 0.0:
        return "All rows are alike, so labels could not be judged."
    if distinct < FEWEST:
        return f"{distinct} different texts are too few to judge labels by; it takes {FEWEST}."
    if len(data.names) > len(data) // 4:
        return (
            f"There are {len(data.names)} different labels in {len(data)} rows, so they could not "
            "be judged: is it the right column?"
        )
    return ""


def _contradicting(
    features: npt.NDArray[np.float32], labels: Ints, issues: Ints, suggested: Ints
) -> Ints:
    """Returns for each issue the place of the row nearest to it, by cosine, among those with the
    suggested label; -1 where there is none, and beyond the first issues."""
    out = np.full(len(issues), -1, dtype=np.int64)
    looked = issues[:_LOOKED_UP]
    unit = torch.from_numpy(features - features.mean(axis=0))
    unit = nn.functional.normalize(unit, dim=1)
    for k in np.unique(suggested[looked]):
        mine = np.flatnonzero(suggested[looked] == k)
        other = np.flatnonzero(labels == k)
        if len(other):
            close = unit[looked[mine]] @ unit[other].T
            out[mine] = other[close.argmax(dim=1).numpy()]
    return out


def _numbers(given: list[Any], names: Sequence[str] | None) -> tuple[Ints, Sequence[str]]:
    """Returns labels as places in a list of names, int64[n], and the names; names that are given
    are kept.

    Raises:
        DataError: for rows without a label, and labels that are none of the names.
    """
    missing = [i for i, x in enumerate(given) if x is None or x != x or x == ""]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(given)} rows have no label (rows {missing[:5]}, counted from "
            "0): remove them, or give label=None to look at repeats and lengths alone"
        )
    if names is not None:
        strange = sorted({str(x) for x in given if not _is_place(x, len(names))})
        if strange:
            raise DataError(
                f"labels {', '.join(strange[:5])} are none of 0 to {len(names) - 1}, the places in "
                "names"
            )
        return np.asarray([int(x) for x in given]), names
    known = sorted(set(given), key=lambda x: (isinstance(x, str), x))
    place = {name: i for i, name in enumerate(known)}
    return np.asarray([place[x] for x in given], dtype=np.int64), [str(x) for x in known]


def _is_place(x: Any, many: int) -> bool:
    return isinstance(x, (int, np.integer)) and 0 <= int(x) < many


def _column(dataset: Any, name: str) -> Iterable[Any]:
    have = getattr(dataset, "column_names", None)
    if have is None:
        have = getattr(dataset, "columns", None)  # of a data frame
    if have is None and isinstance(dataset, Mapping):
        have = list(dataset)
    if have is not None:
        if name not in list(have):
            raise DataError(f"no column {name!r}; there are {', '.join(map(repr, have))}")
        values: Iterable[Any] = dataset[name]
        return values
    out = []
    for i, row in enumerate(dataset):
        if not isinstance(row, Mapping) or name not in row:
            raise DataError(f"row {i} has no {name!r}: expected a mapping with that key")
        out.append(row[name])
    return out
