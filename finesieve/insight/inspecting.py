"""One pass over a data set with a frozen model, and all that it tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.errors import ConfigError, DataError
from finesieve.insight.answers import limit_of, look_at, token_rows
from finesieve.insight.classes import check_classes, not_whole, numbered
from finesieve.insight.columns import column
from finesieve.insight.curves import gradient_sizes, learning_curve
from finesieve.insight.data import Data
from finesieve.insight.embed import Embedded, embed
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.insights import Insights
from finesieve.insight.labels import Judged, judge
from finesieve.insight.passed_over import by_words, passed_over, pooled
from finesieve.insight.repeats import repeats
from finesieve.insight.visits import UNEVEN, Visits
from finesieve.scoring.heads import Tokens
from finesieve.scoring.task_of import head_of

Ints = npt.NDArray[np.int64]
FEWEST = 100  # rows below which labels are not judged
NO_LABELS = "There are no labels, so only repeats and lengths were looked at."
NUMBERS = (
    "The labels in {label!r} are numbers such as {number}, not classes, so they were not judged."
)
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
    max_length: int | None = None,
    folds: int = 5,
    pool: str = "auto",
    seed: int = 0,
) -> Insights:
    """Looks a data set of labelled texts over: wrong labels, repeats, what is hard, what is enough.

    Nothing is trained but small heads: each text goes through the model once, and heads are
    fitted to its features, so that each row is judged by one that has not seen it.

    A causal language model's rows are looked over otherwise: how many of a row's tokens are
    targets, which rows have none, are cut or have no end, and what the loss of each is.

    Args:
        model: a Hugging Face model, trained on the data or not; None finds repeats alone.
        dataset: columns by name (a mapping of lists, a `datasets.Dataset`, a data frame), or rows,
            each a mapping. For a language model see `finesieve.insight.answers.token_rows`.
        tokenizer: the model's.
        text, text_pair, label: names of columns; `label=None` if there are no labels. Labels that
            are numbers such as 2.5 are no classes and not judged.
        names: of the classes, where labels are whole numbers.
        max_length: tokens that the model is shown of a text: 128 by default, and of a language
            model's row 1,024, or as many as it has positions.
        folds: of the cross-fitting.
        pool: what the features are, see `finesieve.insight.embed.embed`.
        seed: of all that is drawn by chance.

    Returns:
        Tables, sentences, a page and exports: see `Insights`.

    Raises:
        ConfigError: for settings that contradict each other.
        DataError: for columns that are not there, rows without a label, or labels that are none of
            the model's classes.
    """
    if model is not None and tokenizer is None:
        raise ConfigError("a model needs its tokenizer: inspect(model, dataset, tokenizer=...)")
    if model is not None and _writes(model):
        return look_at_answers(
            model, tokenizer, dataset, text=text, max_length=max_length, seed=seed
        )
    texts = [str(x) if x is not None else "" for x in column(dataset, text)]
    pairs = None if text_pair is None else [str(x or "") for x in column(dataset, text_pair)]
    given = None if label is None else list(column(dataset, label))
    number = None if given is None else not_whole(given)
    unlabelled = NO_LABELS
    if number is not None:
        given, unlabelled = None, NUMBERS.format(label=label, number=number)
    if not texts:
        raise DataError("the data set is empty: expected a row per example")
    rows = np.arange(len(texts))
    numbers, found = (None, ()) if given is None else numbered(given, names)
    if model is not None and given is not None:
        check_classes(model, tokenizer, texts, given)
    data = Data("", texts, pairs, numbers, found, rows)
    max_length = 128 if max_length is None else max_length
    return look(
        model,
        tokenizer,
        data,
        max_length=max_length,
        folds=folds,
        pool=pool,
        seed=seed,
        unlabelled=unlabelled,
        notes=(unlabelled,) if number is not None and model is None else (),
    )


def look_at_answers(
    model: nn.Module,
    tokenizer: Any,
    dataset: Any,
    *,
    name: str = "",
    text: str = "text",
    max_length: int | None = None,
    seed: int = 0,
    numbers: Ints | None = None,
    notes: Sequence[str] = (),
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Insights:
    """Returns what `inspect` does, of a causal language model's rows.

    Args:
        model, tokenizer, dataset, text, max_length, seed: as in `inspect`.
        name: of the source.
        numbers: int64[n], of the rows in it; they count from 0 if not given.
        notes: sentences to add.
        tell: is told what is done, and the share of it.
    """
    limit = limit_of(model, max_length)
    rows = token_rows(dataset, tokenizer, limit, text)
    numbers = np.arange(len(rows.ids)) if numbers is None else numbers
    data = Data(name, rows.texts, rows.answers, None, (), numbers)
    tell("repeats", 0.0)
    exact, near = repeats(data.joined, seed)
    answered = look_at(model, rows, limit, lambda share: tell("texts", share))
    return Insights(
        data,
        exact,
        near,
        sizes=answered.sizes,
        answered=answered,
        notes=notes,
        how="Losses are the model's as it is: nothing was trained.",
    )


def look(
    model: nn.Module | None,
    tokenizer: Any,
    data: Data,
    *,
    max_length: int = 128,
    folds: int = 5,
    pool: str = "auto",
    seed: int = 0,
    visits: Visits | None = None,
    tell: Callable[[str, float], None] = lambda what, share: None,
    unlabelled: str = NO_LABELS,
    **more: Any,
) -> Insights:
    """Returns what `inspect` does, of data that are read already.

    Args:
        model, tokenizer, data, max_length, folds, pool, seed: as in `inspect`.
        visits: features from a training run, of rows that need not be looked at again.
        tell: is told what is done, and the share of it.
        unlabelled: what to say where there are no labels.
        more: fields of `Insights` that are known already.
    """
    if folds < 2:
        raise ConfigError(f"folds is {folds}; expected 2 or more")
    tell("repeats", 0.0)
    exact, near = repeats(data.joined, seed)
    notes = list(more.pop("notes", ()))
    if model is None:
        return Insights(
            data,
            exact,
            near,
            notes=(*notes, "Without a model, labels and lengths are not looked at."),
            **more,
        )
    labels, passed, words = data.labels, None, None
    if visits is not None and labels is not None:
        fold = folds_of(labels, near, folds, seed)
        words = by_words(visits.model, visits.tokens, labels, fold, len(data.names), seed)
        passed = passed_over(visits, labels, words)
    seen = embed(
        model,
        tokenizer,
        data.texts,
        data.pairs,
        max_length=max_length,
        pool=pool,
        visits=visits,
        leave_out=passed,
        tell=lambda share: tell("texts", share),
    )
    known = {"tokens": seen.tokens, "cut": seen.cut, "limit": seen.limit, **more}
    why = _unjudgeable(data, near, seen) if data.labels is not None else unlabelled
    if why:
        return Insights(data, exact, near, notes=(*notes, why), **known)
    assert labels is not None
    tell("labels", 0.0)
    among = np.arange(len(data))
    if passed is not None:
        among = np.setdiff1d(among, passed)
    heads = Heads(seen.features, labels, len(data.names), seed, among)
    fold = folds_of(labels, near, folds, seed)
    own = p = heads.out_of_fold(fold)
    if visits is None:
        words = by_words(model, seen.ids, labels, fold, len(data.names), seed)
    if words is not None:
        if passed is not None:
            own[passed] = words[passed]
        p = words.copy()
        p[among] = pooled(own[among], words[among])
    if visits is None:
        judged = judge(p, labels, seed)
    else:
        judged = judge(p, labels, seed, visits.weights(), UNEVEN)
    unlearned = np.zeros(len(data), dtype=bool)
    unlearned[among] = heads.fitted(among)(among).argmax(axis=1) != labels[among]
    tell("enough", 0.0)
    return Insights(
        data,
        exact,
        near,
        probabilities=p,
        judged=judged,
        # From the head on features alone. The mean with the head on words is less sure of every
        # row, so gradients would look more alike than they are.
        sizes=gradient_sizes(own.astype(np.float64), labels),
        contradicting=_contradicting(seen.features, labels, among, judged),
        unlearned=unlearned,
        # From the head on features alone, as all other points of the curve are.
        curve=learning_curve(heads, labels, own.astype(np.float64), seed, folds),
        notes=notes,
        how=_how(folds, visits, 0 if passed is None else len(passed), words is not None),
        **known,
    )


def _how(folds: int, visits: Visits | None, passed: int, words: bool) -> str:
    """Returns how the rows were judged, in a few sentences.

    Args:
        folds: of the cross-fitting.
        visits: of the training run, if there was one.
        passed: rows that were judged by their words alone.
        words: whether all were judged by their words, too.
    """
    of = "the model's features" if visits is not None else "the frozen model's features"
    told = (
        f"Every row was judged by a head on {of} that was fitted to the other rows ({folds} folds; "
        "copies of a text share a fold)."
    )
    if words:
        told += (
            " A second head on the mean of its words' embeddings was fitted likewise, and the "
            "geometric mean of what both say counts."
        )
    if visits is None:
        return told
    met = int(visits.met.sum())
    told += (
        f" The features of {met:,} rows are those that the model gave them in training, before it "
        f"was trained on them; {len(visits.met) - met - passed:,} others, met too early or not at "
        "all, were looked at again at the end."
    )
    if passed:
        told += (
            f" The filter passed over {passed:,} more rows as easy, so they were judged by their "
            "words alone; --thorough looks at them, too."
        )
    if visits.passed.any():
        counted = int((visits.weights() > 0.0).sum())
        told += (
            f" How many labels are wrong, in all and by class, was counted on {counted:,} rows: "
            "each row that training met counts for one over the chance that the filter gave it, "
            "so it stands for rows like it that were passed over. The fewer rows were met, the "
            "wider is the interval."
        )
    return told


def _writes(model: nn.Module) -> bool:
    """Returns whether it is a causal language model."""
    try:
        head = head_of(model)
    except ConfigError:
        return False
    return isinstance(head, Tokens) and head.shift


def _unjudgeable(data: Data, near: Ints, seen: Embedded) -> str:
    """Returns why the labels cannot be judged, in a sentence; empty if they can."""
    assert data.labels is not None
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
    features: npt.NDArray[np.float32], labels: Ints, among: Ints, judged: Judged
) -> Ints:
    """Returns for each issue the place of the row nearest to it, by cosine, among those with the
    suggested label; -1 where there is none, and beyond the first issues.

    Args:
        features: float32[n, d].
        labels: int64[n].
        among: int64[m], in order, places of the rows that have features.
        judged: has the issues and what is suggested.
    """
    issues, suggested = judged.issues, judged.suggested
    out = np.full(len(issues), -1, dtype=np.int64)
    known = np.zeros(len(labels), dtype=bool)
    known[among] = True
    looked = np.flatnonzero(known[issues[:_LOOKED_UP]])
    middle = features[among].mean(axis=0) if len(among) < len(labels) else features.mean(axis=0)

    def unit(places: Ints) -> torch.Tensor:  # of one class at a time: all would be a copy
        return nn.functional.normalize(torch.from_numpy(features[places] - middle), dim=1)

    for k in np.unique(suggested[issues[looked]]):
        mine = looked[suggested[issues[looked]] == k]
        other = np.flatnonzero((labels == k) & known)
        if len(other):
            close = unit(issues[mine]) @ unit(other).T
            out[mine] = other[close.argmax(dim=1).numpy()]
    return out
