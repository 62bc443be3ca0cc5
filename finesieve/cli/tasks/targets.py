"""Labels as the numbers that a model is trained on, one kind a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.cli.data.table import Table

IGNORED = -100  # the label of a piece that is left out of the loss, as in PyTorch
Array = npt.NDArray[Any]
Truth = Any  # a sequence or array with an entry an example


class Targets(ABC):
    """Turns the labels of a table into arrays, a row each."""

    @abstractmethod
    def encode(self, table: Table, encoded: Any) -> Array | list[Array]:
        """Returns the labels of the examples as the array that the loss is computed from.

        It has one row for each example.

        Args:
            encoded: the table's texts, as a tokenizer returned them.
        """

    def truth(self, table: Table, encoded: Any) -> Truth:
        """Returns for each example what its prediction is compared with."""
        return self.encode(table, encoded)


class Classes(Targets):
    """Replaces the one class of each example by its number.

    Args:
        names: of all classes, in their order.
    """

    def __init__(self, names: Sequence[Any]) -> None:
        self._number = {name: i for i, name in enumerate(names)}

    def encode(self, table: Table, encoded: Any) -> Array:
        """Returns the number of each label, int64[n]."""
        return np.asarray([self._number[y] for y in table.labels], dtype=np.int64)


@dataclass(frozen=True)
class Scale(Targets):
    """Standardises labels, so that the loss of naming the mean is about 1 whatever their unit.

    Args:
        mean, std: of the labels of the training data, before `--limit`.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, labels: Sequence[Any]) -> Scale:
        """Returns the scale of these labels, which are not all the same."""
        values = np.asarray(labels, dtype=np.float64)
        return cls(float(values.mean()), float(values.std()))

    def encode(self, table: Table, encoded: Any) -> Array:
        """Returns (label - mean) / std, float32[n]."""
        values = (np.asarray(table.labels, dtype=np.float64) - self.mean) / self.std
        return values.astype(np.float32)

    def truth(self, table: Table, encoded: Any) -> Truth:
        """Returns the labels as training has them, in their own unit, float64[n]."""
        return self.labels(self.encode(table, encoded))

    def labels(self, targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Returns standardised values in the unit of the labels again, float64[n]."""
        return np.asarray(targets, dtype=np.float64) * self.std + self.mean

    def as_dict(self) -> dict[str, float]:
        """Returns mean and standard deviation as a dict, for saving."""
        return {"mean": self.mean, "std": self.std}


class Marks(Targets):
    """Turns an example's labels into a row of ones and zeros.

    The row has a place for every label of the data: 1 if the example has that label, else 0.

    Args:
        names: of all labels, in their order.
    """

    def __init__(self, names: Sequence[Any]) -> None:
        self._number = {name: i for i, name in enumerate(names)}

    def encode(self, table: Table, encoded: Any) -> Array:
        """Returns a mark for each label, float32[n, labels]."""
        out = np.zeros((len(table), len(self._number)), dtype=np.float32)
        for row, labels in enumerate(table.labels):
            assert isinstance(labels, tuple)
            out[row, [self._number[name] for name in labels]] = 1.0
        return out


@dataclass(frozen=True)
class Tagged:
    """The tags of one example's words.

    Args:
        tags: int64[words], their numbers.
        places: int64[words], the place of each word's first piece among the example's; -1 for a
            word that was cut off or has no piece.
    """

    tags: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


class Tags(Targets):
    """Gives the first piece of every word its word's tag, and all others -100.

    Args:
        names: of all tags, in their order.
        per: how many words a training sentence has on average, before `--limit`.
    """

    def __init__(self, names: Sequence[Any], per: float = 1.0) -> None:
        self._number, self.per = {name: i for i, name in enumerate(names)}, per

    def encode(self, table: Table, encoded: Any) -> list[Array]:
        """Returns a label for each piece, int64[pieces] an example."""
        out = []
        for pieces, one in zip(encoded["input_ids"], self.truth(table, encoded), strict=True):
            labels = np.full(len(pieces), IGNORED, dtype=np.int64)
            there = one.places >= 0
            labels[one.places[there]] = one.tags[there]
            out.append(labels)
        return out

    def truth(self, table: Table, encoded: Any) -> list[Tagged]:
        """Returns the tags of all words, those that were cut off included."""
        out = []
        for row, tags in enumerate(table.labels):
            assert isinstance(tags, tuple)
            places = np.full(len(tags), -1, dtype=np.int64)
            for place, word in enumerate(encoded.word_ids(row)):
                if word is not None and places[word] < 0:
                    places[word] = place
            numbers = np.asarray([self._number[tag] for tag in tags], dtype=np.int64)
            out.append(Tagged(numbers, places))
        return out
