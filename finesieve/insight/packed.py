"""Many texts without a Python object for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


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
