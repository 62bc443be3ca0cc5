"""Rows that training never ran through the model, judged without a forward pass.

A filter that skips the forward pass, too, leaves rows that it takes for easy without features. To
run them all through the model at the end would cost more than all the rest of the look. They are
judged by their words instead: a head on the mean of the input embeddings of a text's tokens is
fitted to the rows that were met. The few whose label it doubts most are run through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.insight.folds import Heads
from finesieve.insight.visits import Visits
from finesieve.scoring.mode import unwrapped

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
DOUBTED = 0.01  # of all rows, that are run through the model though training passed them over
_FITTED = 4_000  # rows that the head on words is fitted to
_STRENGTH = 3e-4
_TOGETHER = 65_536  # rows whose embeddings are summed at once


@dataclass(frozen=True)
class Passed:
    """Rows that are judged by their words.

    Attributes:
        places: int64[m].
        probabilities: float32[m, classes], from a head that was not fitted to them.
    """

    places: Ints
    probabilities: Floats


def passed_over(visits: Visits, labels: Ints, near: Ints, classes: int, seed: int) -> Passed | None:
    """Returns the rows that need not be run through the model; None if all that training did not
    meet are worth it, as there are few of them.

    Args:
        visits: of the training run.
        labels: int64[n].
        near: int64[n], the same for rows that repeat each other.
        classes: how many.
        seed: of the rows that are fitted to.
    """
    unmet = np.flatnonzero(visits.passed)
    doubted = int(DOUBTED * len(labels))
    table = _embeddings(visits.model)
    if visits.thorough or len(unmet) <= doubted or table is None or visits.tokens is None:
        return None
    # A copy of a row that is judged would tell the head that row's label.
    others = np.flatnonzero(~visits.passed & ~np.isin(near, near[unmet]))
    others = np.random.default_rng([seed, 87]).permutation(others)[:_FITTED]
    if len(np.unique(labels[others])) < classes:
        return None
    both = np.concatenate([others, unmet])
    words = _words(table, [visits.tokens[i] for i in both.tolist()])
    fitted = np.arange(len(others))
    heads = Heads(words, labels[both], classes, seed, strength=_STRENGTH)
    p = heads.fitted(fitted)(np.arange(len(others), len(both)))
    sure = np.sort(np.argsort(p[np.arange(len(p)), labels[unmet]], kind="stable")[doubted:])
    return Passed(unmet[sure], p[sure])


def _embeddings(model: Any) -> torch.Tensor | None:
    inner: Any = unwrapped(model)
    found = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    return found.weight.detach() if isinstance(found, nn.Embedding) else None


def _words(table: torch.Tensor, tokens: Sequence[Ints]) -> Floats:
    """Returns the means of the embeddings of each row's tokens, float32[n, d]."""
    parts = []
    for start in range(0, len(tokens), _TOGETHER):
        some = tokens[start : start + _TOGETHER]
        ends = np.cumsum([0, *map(len, some[:-1])])
        ids, starts = torch.from_numpy(np.concatenate(some)), torch.from_numpy(ends)
        found = nn.functional.embedding_bag(
            ids.to(table.device), table, starts.to(table.device), mode="mean"
        )
        parts.append(found.float().cpu().numpy())
    return np.concatenate(parts)
