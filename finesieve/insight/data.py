"""The rows that are looked at, and what was found in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.insight.answers import Answered
from finesieve.insight.curves import Curve
from finesieve.insight.labels import Judged
from finesieve.insight.packed import MadeWhenAsked

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """The rows that were looked at.

    Attributes:
        name: of the source.
        texts: n texts; pairs: the second ones, or None.
        labels: int64[n], places in `names`; None if there are no labels.
        names: of the classes.
        rows: int64[n], each one's row in the source, from 0.
        ids: the rows' own ids, if the source has them.
    """

    name: str
    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: Ints | None
    names: Sequence[str]
    rows: Ints
    ids: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def text(self, i: int) -> str:
        """Returns the text of one row, both parts where there are two."""
        return self.texts[i] if self.pairs is None else f"{self.texts[i]} || {self.pairs[i]}"

    @property
    def joined(self) -> Sequence[str]:
        """The texts of all rows, both parts where there are two, made when they are asked for."""
        return self.texts if self.pairs is None else _Joined(self)

    def label(self, i: int) -> str:
        """Returns the name of one row's label."""
        return "" if self.labels is None else str(self.names[self.labels[i]])


class _Joined(MadeWhenAsked[str]):
    def __init__(self, data: Data) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def _item(self, at: int) -> str:
        return self._data.text(at)


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        data: the rows.
        exact, near: int64[n], for each row the place of the first of its group of repeats.
        tokens: int64[n] as the model saw them, or None without a model; `cut`: bool[n], longer.
        limit: tokens that the model was shown of a text.
        probabilities: float32[n, k] out of sample, or None where labels could not be judged.
        judged: the labels' judgement. sizes: float64[n], gradient norms at the logits.
        contradicting: int64[m], for each of `judged.issues` the nearest row that has the suggested
            label, -1 if there is none.
        unlearned: bool[n], rows that a head gets wrong that was fitted to them as well.
        curve: error by the number of rows.
        first_losses: float[n] of a training run, before the row was trained on, if there was one.
        answered: of a language model's rows, tokens, targets, ends and losses.
        notes: what was left out, and why.
        how: how the rows were judged, in a sentence.
    """

    data: Data
    exact: Ints
    near: Ints
    tokens: Ints | None = None
    cut: npt.NDArray[np.bool_] | None = None
    limit: int = 0
    probabilities: npt.NDArray[np.float32] | None = None
    judged: Judged | None = None
    sizes: npt.NDArray[np.float64] | None = None
    contradicting: Ints | None = None
    unlearned: npt.NDArray[np.bool_] | None = None
    curve: Curve | None = None
    first_losses: npt.NDArray[np.float32] | None = None
    answered: Answered | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    how: str = ""
