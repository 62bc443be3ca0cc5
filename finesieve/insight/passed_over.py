"""Rows judged by their words, without a forward pass.

The mean of the input embeddings of a text's tokens is known for nothing. A head on it judges every
row a second time, out of fold. It errs otherwise than a head on the model's features, so the
geometric mean of both ranks labels better than either (a logarithmic opinion pool; Hinton 2002,
"Training products of experts").

A filter that skips the forward pass, too, leaves rows that it takes for easy without features. To
run them all through the model at the end would cost more than all the rest of the look. They are
judged by their words alone; the few whose label is doubted most are run through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.insight.folds import Heads
from finesieve.insight.visits import Visits
from finesieve.scoring.mode import unwrapped

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
DOUBTED = 0.01  # of all rows, that are run through the model though training passed them over
_FITTED = 4_000  # rows that a head on words is fitted to
_STRENGTH = 3e-4
_LEAST = 1e-12  # probability
_TOGETHER = 65_536  # rows whose embeddings are summed at once


def by_words(
    model: Any,
    tokens: Sequence[npt.NDArray[np.integer[Any]]] | None,
    labels: Ints,
    fold: Ints,
    classes: int,
    seed: int,
) -> Floats | None:
    """Returns probabilities by words alone, float32[n, classes], each row's from a head that was
    fitted to other folds; None if the model has no table of embeddings, or tokens are not known.

    Args:
        model: whose input embeddings are taken.
        tokens: of each text, as the model is given them; None if they are not known.
        labels: int64[n].
        fold: int64[n], in which rows that repeat each other share one.
        classes: how many.
        seed: of the rows that are fitted to.
    """
    table = _embeddings(model)
    if table is None or tokens is None:
        return None
    dice = np.random.default_rng([seed, 87])
    out = np.zeros((len(labels), classes), dtype=np.float32)
    for number in np.unique(fold):
        others = dice.permutation(np.flatnonzero(fold != number))[:_FITTED]
        words = _words(table, [tokens[i] for i in others.tolist()])
        heads = Heads(words, labels[others], classes, seed, strength=_STRENGTH)
        judge = heads.head(np.arange(len(others)))
        inside = np.flatnonzero(fold == number)
        for start in range(0, len(inside), _TOGETHER):
            some = inside[start : start + _TOGETHER]
            out[some] = judge(_words(table, [tokens[i] for i in some.tolist()]))
    return out


def pooled(first: Floats, second: Floats) -> Floats:
    """Returns the geometric means of two heads' probabilities, float32[n, classes]."""
    logs = np.log(np.maximum(first, _LEAST)) + np.log(np.maximum(second, _LEAST))
    both = np.exp((logs - logs.max(axis=1, keepdims=True)) / 2)
    shares: Floats = both / both.sum(axis=1, keepdims=True)
    return shares


def passed_over(visits: Visits, labels: Ints, words: Floats | None) -> Ints | None:
    """Returns places of the rows that need not be run through the model, int64[m]; None if all that
    training did not meet are worth it, as there are few of them.

    Args:
        visits: of the training run.
        labels: int64[n].
        words: float32[n, classes], probabilities by words.
    """
    unmet = np.flatnonzero(visits.passed)
    doubted = int(DOUBTED * len(labels))
    if visits.thorough or len(unmet) <= doubted or words is None:
        return None
    order = np.argsort(words[unmet, labels[unmet]], kind="stable")
    return np.sort(unmet[order[doubted:]])


def _embeddings(model: Any) -> torch.Tensor | None:
    inner: Any = unwrapped(model)
    found = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    return found.weight.detach() if isinstance(found, nn.Embedding) else None


def _words(table: torch.Tensor, tokens: Sequence[npt.NDArray[np.integer[Any]]]) -> Floats:
    """Returns the means of the embeddings of each row's tokens, float32[n, d]."""
    parts = []
    for start in range(0, len(tokens), _TOGETHER):
        some = tokens[start : start + _TOGETHER]
        ends = np.cumsum([0, *map(len, some[:-1])])
        ids = torch.from_numpy(np.concatenate(some).astype(np.int64, copy=False))
        starts = torch.from_numpy(ends)
        found = nn.functional.embedding_bag(
            ids.to(table.device), table, starts.to(table.device), mode="mean"
        )
        parts.append(found.float().cpu().numpy())
    return np.concatenate(parts)
