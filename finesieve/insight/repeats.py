"""Exact and near repeats of texts, by MinHash (Broder 1997) and locality-sensitive hashing.

Texts are compared by the sets of their runs of `GRAM` bytes, after case and blanks are evened out.
Two texts whose sets overlap by a Jaccard index of `ALIKE` or more are near repeats. Hashes find
the candidates (Leskovec, Rajaraman & Ullman, "Mining of massive datasets", chapter 3); the index
of each candidate pair is then counted exactly, so a group never rests on a hash alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
GRAM = 5
ALIKE = 0.7
BANDS, ROWS = 16, 4  # a pair at 0.7 is missed with probability (1 - 0.7^4)^16 = 1 %
_LOOSELY = 0.5
_CHUNK = 1 << 22  # bytes of text hashed at once: bounds the memory
_SLACK = 0.15  # 2.6 standard deviations of an index estimated from 64 hashes
_REMEMBERED = 24  # bits of the table of refused pairs: 128 MiB at the most
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FEWEST = 12  # bytes: shorter texts are alike too easily


def evened(text: str) -> str:
    """Returns the text in lower case with single blanks, as repeats are compared."""
    return " ".join(text.lower().split())


def repeats(texts: Sequence[str], seed: int = 0) -> tuple[Ints, Ints]:
    """Finds the groups of texts that repeat.

    Time grows with the bytes of text and memory with the number of texts: about 220 bytes each.

    Args:
        texts: n texts.
        seed: of the hash functions.

    Returns:
        exact int64[n] and near int64[n]: for each text the place of the first of its group, its
        own where nothing repeats it. A group of `exact` never straddles two of `near`.
    """
    exact = _exact(texts)
    places = np.flatnonzero(exact == np.arange(len(texts)))
    unique = _Texts(texts, places)
    near = np.arange(len(places))
    keys, signatures = _hashed(unique, seed)
    refused = _Refused(len(places))
    for band in range(BANDS):
        for some, others in map(refused.without, _candidates(keys[:, band], signatures)):
            unlike = []
            for i, j in zip(some.tolist(), others.tolist(), strict=True):
                a, b = _root(near, i), _root(near, j)
                if a == b:
                    continue
                if not unique.alike(i, j):
                    unlike.append((i, j))
                # Groups are joined only if their first texts are alike, too. Otherwise a chain of
                # small differences would join texts that have little in common.
                elif unique.alike(a, b, _LOOSELY):
                    near[max(a, b)] = min(a, b)
            refused.add(unlike)
    while not np.array_equal(near, near[near]):
        near = near[near]
    return exact, places[near][np.searchsorted(places, exact)]


def _exact(texts: Sequence[str]) -> Ints:
    """Returns for each text the place of the first that is the same, evened, int64[n].

    Texts are told apart by 128 bits of BLAKE2: two different ones among a thousand million share
    them with a probability below 10^-20.
    """
    digests = np.empty((len(texts), 2), dtype=np.uint64)
    for i, text in enumerate(texts):
        raw = evened(text).encode("utf-8", "replace")
        digests[i] = np.frombuffer(blake2b(raw, digest_size=16).digest(), dtype=np.uint64)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the first of each comes first
    alike = np.r_[False, (digests[order[1:]] == digests[order[:-1]]).all(axis=1)][: len(order)]
    begin = np.maximum.accumulate(np.where(alike, 0, np.arange(len(order))))
    exact = np.empty(len(texts), dtype=np.int64)
    exact[order] = order[begin]
    return exact


class _Texts:
    """Texts by place, evened, and how alike two of them are."""

    def __init__(self, texts: Sequence[str], places: Ints) -> None:
        self._texts, self._places = texts, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> bytes:
        return evened(self._texts[self._places[i]]).encode("utf-8", "replace")

    def alike(self, a: int, b: int, least: float = ALIKE) -> bool:
        """Returns whether the Jaccard index of two texts, of runs of bytes, is `least` or more."""
        first, second = self[a], self[b]
        if min(len(first), len(second)) < least * max(len(first), len(second)) - GRAM:
            return False
        one, other = (
            {text[i : i + GRAM] for i in range(max(1, len(text) - GRAM + 1))}
            for text in (first, second)
        )
        both = len(one & other)
        return both >= least * (len(one) + len(other) - both)


class _Refused:
    """Remembers pairs that were compared and are not alike.

    Most of them share several bands, so they would be compared again and again.

    A later pair takes the place of an earlier one with the same hash, which bounds the memory.

    Args:
        many: texts.
    """

    def __init__(self, many: int) -> None:
        self._many = many
        self._bits = min(max(1, (2 * many).bit_length()), _REMEMBERED)
        self._pairs = np.full(1 << self._bits, -1, dtype=np.int64)

    def _slots(self, pairs: Ints) -> npt.NDArray[np.uint64]:
        return (pairs.astype(np.uint64) * _MIX) >> np.uint64(64 - self._bits)

    def _numbers(self, some: Ints, others: Ints) -> Ints:
        return np.minimum(some, others) * self._many + np.maximum(some, others)

    def without(self, pairs: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
        """Returns the pairs that were not refused before."""
        some, others = pairs
        numbers = self._numbers(some, others)
        new = self._pairs[self._slots(numbers)] != numbers
        return some[new], others[new]

    def add(self, pairs: list[tuple[int, int]]) -> None:
        """Takes note of pairs that are not alike."""
        if pairs:
            some, others = np.asarray(pairs, dtype=np.int64).T
            numbers = self._numbers(some, others)
            self._pairs[self._slots(numbers)] = numbers


def _root(near: Ints, i: int) -> int:
    while near[i] != i:
        near[i] = near[near[i]]
        i = int(near[i])
    return i


def _hashed(texts: _Texts, seed: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """Returns keys uint32[n, BANDS], 0 for texts too short: those with one in common are
    candidates; and the low bytes of all minima, uint8[n, BANDS * ROWS] (b-bit minwise hashing, Li &
    König 2010)."""
    dice = np.random.default_rng([seed, 83])
    many = BANDS * ROWS
    factors = dice.integers(1, 1 << 63, many, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mix = dice.integers(1, 1 << 63, ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.zeros((len(texts), BANDS), dtype=np.uint32)
    signatures = np.zeros((len(texts), many), dtype=np.uint8)
    for index, raw, starts in _chunks(texts):
        grams = _grams(raw)
        lengths = np.diff(starts, append=len(raw))
        # A run that would reach into the next text counts as that text's last whole one.
        last = starts + np.maximum(lengths - GRAM, 0)
        grams = grams[np.minimum(np.arange(len(raw)), np.repeat(last, lengths))]
        for band in range(BANDS):
            key = np.zeros(len(index), dtype=np.uint64)
            for row in range(ROWS):
                hashed = grams * factors[band * ROWS + row]
                hashed ^= hashed >> np.uint64(32)
                least = np.minimum.reduceat(hashed, starts)
                signatures[index, band * ROWS + row] = least & np.uint64(0xFF)
                key = (key + least) * mix[row]
                key ^= key >> np.uint64(29)
            keys[index, band] = np.where(
                lengths >= _FEWEST, (key >> np.uint64(32)) | np.uint64(1), 0
            )
    return keys, signatures


def _chunks(texts: _Texts) -> Iterator[tuple[Ints, npt.NDArray[np.uint8], Ints]]:
    """Yields places, the bytes of their texts one after another, and where each begins."""
    index: list[int] = []
    parts: list[bytes] = []
    size = 0
    for i in range(len(texts)):
        part = texts[i] or b" "
        index.append(i)
        parts.append(part)
        size += len(part)
        if size >= _CHUNK or i == len(texts) - 1:
            starts = np.cumsum([0, *map(len, parts[:-1])])
            yield np.asarray(index), np.frombuffer(b"".join(parts), dtype=np.uint8), starts
            index, parts, size = [], [], 0


def _grams(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Returns each run of `GRAM` bytes as one well-mixed number, uint64[len(raw)]; the end
    wraps."""
    out = np.zeros(len(raw), dtype=np.uint64)
    for k in range(GRAM):
        out = (out << np.uint64(8)) | np.roll(raw, -k).astype(np.uint64)
    out *= _MIX
    out ^= out >> np.uint64(31)
    return out


def _candidates(
    keys: npt.NDArray[np.uint32], signatures: npt.NDArray[np.uint8]
) -> Iterator[tuple[Ints, Ints]]:
    """Yields pairs of texts with the same key whose signatures agree, many at once: each text with
    the first of its bucket and with the two just before it."""
    order = np.argsort(keys, kind="stable")
    found = keys[order]
    begin = np.flatnonzero(np.r_[True, found[1:] != found[:-1]])
    first = np.repeat(begin, np.diff(begin, append=len(found)))
    here = np.arange(len(found))
    for step in (1, 2, 0):
        back = here - step if step else first
        at = np.flatnonzero((back >= first) & (back < here) & (found != 0))
        for start in range(0, len(at), _CHUNK >> 6):
            some = at[start : start + (_CHUNK >> 6)]
            a, b = order[back[some]], order[some]
            close = (signatures[a] == signatures[b]).mean(axis=1) >= ALIKE - _SLACK
            yield a[close], b[close]
