"""Many texts, or their tokens, without a Python object for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt


class Packed(Sequence[str]):
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

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self._text(i) for i in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"text {at} of {len(self)}")
        return self._text(place)

    def __iter__(self) -> Iterator[str]:
        return map(self._text, range(len(self)))

    def _text(self, i: int) -> str:
        return self._raw[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogatepass")


class PackedTokens(Sequence[npt.NDArray[np.int32]]):
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

    @overload
    def __getitem__(self, at: int) -> npt.NDArray[np.int32]: ...

    @overload
    def __getitem__(self, at: slice) -> list[npt.NDArray[np.int32]]: ...

    def __getitem__(self, at: int | slice) -> npt.NDArray[np.int32] | list[npt.NDArray[np.int32]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"text {at} of {len(self)}")
        return self._ids[self._starts[place] : self._starts[place + 1]]
