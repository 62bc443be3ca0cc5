"""Many texts, or their tokens, without a Python object for each."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item", covariant=True)


class MadeWhenAsked(Sequence[Item]):
    """A sequence whose items are made when they are asked for; a slice of it is a list."""

    @abstractmethod
    def _item(self, at: int) -> Item:
        """Return the item at this place, 0 to the length less 1."""

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        if isinstance(at, slice):
            return [self._item(i) for i in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"place {at} of {len(self)}")
        return self._item(place)

    def __iter__(self) -> Iterator[Item]:
        return map(self._item, range(len(self)))


class Packed(MadeWhenAsked[str]):
    """Texts one after another as UTF-8, and where each ends: their bytes and 8 more a text, where a
    list of strings takes 57 or more.

    Args:
        texts: to begin with.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._raw, self._ends = bytearray(), array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Adds a text at the end."""
        self._raw += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._raw))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, at: int) -> str:
        return self._raw[self._ends[at] : self._ends[at + 1]].decode("utf-8", "surrogatepass")


class PackedTokens(MadeWhenAsked[npt.NDArray[np.int32]]):
    """Token ids of texts one after another, and where each begins.

    Args:
        counts: int64[n], how many tokens each text has.
    """

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self._starts = np.concatenate(([0], np.cumsum(counts)))
        self._ids = np.zeros(int(self._starts[-1]), dtype=np.int32)

    def put(self, rows: npt.NDArray[np.int64], ids: npt.NDArray[np.int32]) -> None:
        """Puts the tokens of some texts into their places.

        Args:
            rows: int64[m], which texts.
            ids: their tokens, one text after another.
        """
        counts = self._starts[rows + 1] - self._starts[rows]
        before = np.cumsum(counts) - counts  # tokens of the texts before each, in `ids`
        at = np.arange(len(ids)) + np.repeat(self._starts[rows] - before, counts)
        self._ids[at] = ids

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _item(self, at: int) -> npt.NDArray[np.int32]:
        return self._ids[self._starts[at] : self._starts[at + 1]]
