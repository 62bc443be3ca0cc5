"""Losses that come back from the user's step, matched by id with what was handed out.

Batches may come back late, in parts or in another order (hosts read ahead), hence by id. What was
handed out is kept in chunks, one for each call of `expect`, with arrays for all of its examples;
a sorted index over the ids of all chunks is made whenever losses are collected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.rows import as_drawn
from finesieve.errors import ConfigError
from finesieve.gates.features import array_of
from finesieve.gates.protocol import BoolArray, Features, FloatArray, IntArray, Offer, State


@dataclass(slots=True)
class _Chunk:
    """n examples that were handed out together.

    Args:
        ids: int64[n].
        features: of all n, or None.
        probability: float32[n].
        out: bool[n], whose losses have not come back yet.
    """

    ids: IntArray
    features: Features | None
    probability: FloatArray
    out: BoolArray

    def left(self) -> int:
        """Return how many are still out."""
        return int(np.count_nonzero(self.out))


class _Index(NamedTuple):
    """Where each example that is out is found, by its id.

    Args:
        ids: int64[m], ascending, each once.
        chunk, row: int64[m].
    """

    ids: IntArray
    chunk: IntArray
    row: IntArray


_Given = tuple[Tensor, Tensor, Tensor | None]  # ids, losses and sizes of a batch


class _Sent:
    """Batches of losses on their way from a device to the host."""

    def __init__(self, given: Sequence[_Given]) -> None:
        # Few copies: what each launch costs is the same for one batch and for all of them.
        ids, losses, sizes = zip(*given, strict=True)
        self._counts = [len(x) for x in losses]
        self._sized = [x is not None for x in sizes]
        some = [x.float() for x in sizes if x is not None]
        parts = [torch.cat(ids), torch.cat([x.float() for x in losses])]
        parts += [torch.cat(some)] if some else []
        self._device = losses[0].device
        self._parts = [part.to("cpu", non_blocking=self._device.type == "cuda") for part in parts]
        self._there = mark(self._device)

    def arrived(self) -> list[_Given]:
        """Returns the batches on the host."""
        if self._there is not None:
            self._there.synchronize()
        ids, losses, *rest = self._parts
        sized = [n for n, some in zip(self._counts, self._sized, strict=True) if some]
        sizes = iter(torch.split(rest[0], sized) if rest else ())
        return [
            (i, loss, next(sizes) if some else None)
            for i, loss, some in zip(
                torch.split(ids, self._counts),
                torch.split(losses, self._counts),
                self._sized,
                strict=True,
            )
        ]


def mark(device: torch.device) -> torch.Event | None:
    """Returns an event that comes once the device has done what it was given so far; None where
    copies to the host wait for it anyway."""
    if device.type != "cuda":
        return None
    event = torch.Event(device)
    event.record(torch.cuda.current_stream(device))
    return event


class Returns:
    """What was handed out unscored, and the losses that came back for it.

    Losses on a device are sent for when a few batches of them are there, and read when the next few
    are: by then they have come, and nothing waits for the device.

    Args:
        most: examples handed out without a loss coming back, before that is an error.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._chunks: list[_Chunk] = []
        self._out = 0  # examples in the chunks that are out; an id handed out twice may count twice
        # Whether ids only ever ascended, so that none is out twice; and the last one.
        self._ascending, self._last = True, -1
        self._given: list[_Given] = []
        self._sent: _Sent | None = None
        self._ever = False  # whether any loss ever came back

    def __len__(self) -> int:
        """Returns how many examples are out."""
        return self._out

    def crowded(self, n: int, held: int) -> bool:
        """Return whether more are out than any host has under way, in batches of n.

        Args:
            held: of those expected, how many were not handed out yet.
        """
        return self._out - held > max(self._most, 16 * n)

    @property
    def ever(self) -> bool:
        """Whether any loss ever came back."""
        return self._ever

    @property
    def waiting(self) -> int:
        """Batches of losses that came back and were neither collected nor sent for yet."""
        return len(self._given)

    def expect(
        self, ids: IntArray, features: Features | None, probability: FloatArray | None, held: int
    ) -> None:
        """Note that losses of these will come back, once they are handed out."""
        if self.crowded(len(ids), held):
            self._index()  # which counts each id once
            self._tidy()
        if self.crowded(len(ids), held):
            if not self._ever:
                raise ConfigError(
                    f"{self._out - held} examples were handed out and no loss came back: "
                    "call sieve.loss(losses, batch) in the training step, with the batch as it "
                    "came"
                )
            self._forget(len(ids))  # the oldest will not come any more
        if self._ascending and len(ids):
            self._ascending = bool(ids[0] > self._last) and bool((ids[1:] > ids[:-1]).all())
            self._last = int(ids[-1])
        p = as_drawn(len(ids))[0] if probability is None else probability
        self._chunks.append(_Chunk(ids, features, p, np.ones(len(ids), np.bool_)))
        self._out += len(ids)

    def _forget(self, count: int) -> None:
        """Expect the `count` oldest no longer."""
        for chunk in self._chunks:
            oldest = np.flatnonzero(chunk.out)[:count]
            chunk.out[oldest] = False
            count -= len(oldest)
            if count == 0:
                break
        self._tidy()

    def _tidy(self) -> None:
        """Let chunks go that came back as a whole, and count again."""
        left = [chunk.left() for chunk in self._chunks]
        self._chunks = [c for c, n in zip(self._chunks, left, strict=True) if n]
        self._out = sum(left)

    def _index(self) -> _Index:
        """Make the index; an id that was handed out again stands for its latest example alone."""
        chunks = self._chunks
        rows = [np.flatnonzero(c.out) for c in chunks]
        which = np.repeat(np.arange(len(chunks)), [len(r) for r in rows])
        row = np.concatenate([np.empty(0, np.int64), *rows])
        ids = np.concatenate(
            [np.empty(0, np.int64), *(c.ids[r] for c, r in zip(chunks, rows, strict=True))]
        )
        order = np.argsort(ids, kind="stable")
        ids, which, row = ids[order], which[order], row[order]
        again = np.append(ids[1:] == ids[:-1], False)
        if again.any():
            for chunk, i in zip(which[again], row[again], strict=True):
                chunks[chunk].out[i] = False
            ids, which, row = ids[~again], which[~again], row[~again]
        self._out = len(ids)
        return _Index(ids, which, row)

    def give(self, ids: Tensor, losses: Tensor, sizes: Tensor | None = None) -> None:
        """Keep losses where they are (no device synchronisation) until they are collected."""
        self._given.append((ids, losses, sizes))
        self._ever = True

    def _taken(self, wait: bool) -> list[_Given]:
        """Return the batches that can be read; what is on a device is only sent for unless the
        caller will wait."""
        # Those of a saved state are on the host, whatever device later ones are on.
        here = [one for one in self._given if one[1].is_cpu]
        there = [one for one in self._given if not one[1].is_cpu]
        self._given, sent = [], self._sent
        self._sent = _Sent(there) if there else None
        taken = (sent.arrived() if sent else []) + here
        if wait and self._sent:
            taken += self._sent.arrived()
            self._sent = None
        return taken

    def collect(
        self, stage: int = 1, wait: bool = True
    ) -> Iterator[tuple[IntArray, FloatArray, Offer | None]]:
        """Yield for each batch its ids, its losses, and an offer of those that were expected and
        finite (None if there are none).

        Args:
            stage: of the offers.
            wait: whether to wait for losses that a device may still be working on.
        """
        given = [
            (array_of(ids), array_of(loss if loss.dtype == torch.float32 else loss.float()), size)
            for ids, loss, size in self._taken(wait)
        ]
        given = [
            one for one in given if len(one[0]) > 2 or one[0].max(initial=-1) >= 0
        ]  # no filler
        while given and (found := self._next(stage, *given[0])):
            del given[0]
            yield found
        if not given:
            return
        ids, losses = [x for x, _, _ in given], [x for _, x, _ in given]
        sizes = [None if x is None else x.float().cpu().numpy() for _, _, x in given]
        index, chunks = self._index(), self._chunks
        hit, which, row = _found(np.concatenate(ids), index)
        finite = np.isfinite(np.concatenate(losses))
        for number in np.unique(which[hit]):
            chunks[number].out[row[hit & (which == number)]] = False
        self._tidy()
        begin = 0
        for own, loss, size in zip(ids, losses, sizes, strict=True):
            part = slice(begin, begin + len(own))
            begin = part.stop
            used = np.flatnonzero(hit[part] & finite[part])
            if len(used) == 0:
                yield own, loss, None
                continue
            features, probability = _joined(chunks, which[part][used], row[part][used])
            whole = len(used) == len(own)
            yield (
                own,
                loss,
                Offer(
                    own if whole else own[used],
                    stage,
                    features=features,
                    probability=probability,
                    loss=loss if whole else loss[used],
                    size=size if whole or size is None else size[used],
                ),
            )

    def _next(
        self, stage: int, ids: IntArray, loss: FloatArray, size: Tensor | None
    ) -> tuple[IntArray, FloatArray, Offer | None] | None:
        """Return what `collect` yields for a batch that came back as it went out, before all later
        ones: then nothing has to be looked up. None for any other batch."""
        if not self._chunks:
            return ids, loss, None
        chunk = self._chunks[0]
        same = self._ascending and len(ids) == len(chunk.ids) and bool((ids == chunk.ids).all())
        if not same or not np.isfinite(loss).all() or not chunk.out.all():
            return None
        del self._chunks[0]
        self._out -= len(ids)
        return (
            ids,
            loss,
            Offer(
                ids,
                stage,
                features=chunk.features,
                probability=chunk.probability,
                loss=loss,
                size=None if size is None else size.float().cpu().numpy(),
            ),
        )

    def state_dict(self) -> State:
        """Return what is out, example by example, and what came back."""
        self._given = self._taken(wait=True)
        given = [list(one) for one in self._given]
        self._index()
        expected = [entry for chunk in self._chunks for entry in _entries(chunk)]
        return {"expected": expected, "given": given, "ever": self._ever}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        alike = groupby(state["expected"], key=_kind)
        self._chunks = [_chunk(list(entries)) for _, entries in alike]
        self._out = len(state["expected"])
        ids = np.concatenate([np.full(1, -1), *(chunk.ids for chunk in self._chunks)])
        self._ascending, self._last = bool((ids[1:] > ids[:-1]).all()), int(ids[-1])
        self._given = [(ids, losses, sizes) for ids, losses, sizes in state["given"]]
        self._ever = state["ever"]


def _found(ids: IntArray, index: _Index) -> tuple[BoolArray, IntArray, IntArray]:
    """Return which of these ids are out, bool[k], and in which chunk and row, int64[k] (of no
    meaning where they are not). Of an id that is given several times the first one counts."""
    if len(index.ids) == 0:
        nowhere = np.zeros(len(ids), np.int64)
        return np.zeros(len(ids), np.bool_), nowhere, nowhere
    at = np.minimum(np.searchsorted(index.ids, ids), len(index.ids) - 1)
    hit = index.ids[at] == ids
    if hit.any() and np.bincount(at[hit]).max() > 1:
        first = np.zeros(len(ids), np.bool_)
        first[np.unique(ids, return_index=True)[1]] = True
        hit &= first
    return hit, index.chunk[at], index.row[at]


def _joined(
    chunks: Sequence[_Chunk], which: IntArray, row: IntArray
) -> tuple[Features | None, FloatArray]:
    """Return features, None unless all have them, and probabilities of these rows of chunks."""
    first = chunks[which[0]]
    if (which == which[0]).all():
        if len(row) == len(first.ids) and (row == np.arange(len(row))).all():
            return first.features, first.probability
        return first.features and first.features.take(row), first.probability[row]
    parts = [(which == number, chunks[number]) for number in np.unique(which)]
    probability = np.empty(len(row), np.float32)
    for own, chunk in parts:
        probability[own] = chunk.probability[row[own]]
    some = [(own, c.features) for own, c in parts if c.features is not None]
    if len(some) < len(parts):
        return None, probability
    width = max(f.tokens.shape[1] for _, f in some)
    tokens = np.full((len(row), width), -1, dtype=np.int64)
    cross = np.empty(len(row), dtype=np.int64)
    targets = np.empty(len(row), dtype=np.float32)
    for own, f in some:
        tokens[own, : f.tokens.shape[1]] = f.tokens[row[own]]
        cross[own] = f.cross[row[own]]
        if f.targets is not None:
            targets[own] = f.targets[row[own]]
    told = all(f.targets is not None for _, f in some)
    return Features(tokens, cross, targets if told else None), probability


# ---- the saved form: key, tokens int64[m] or None, cross, targets or None, probability


def _entries(chunk: _Chunk) -> Iterator[list[Any]]:
    f = chunk.features
    for i in np.flatnonzero(chunk.out).tolist():
        key, p = int(chunk.ids[i]), float(chunk.probability[i])
        if f is None:
            yield [key, None, 0, None, p]
        else:
            targets = None if f.targets is None else float(f.targets[i])
            yield [key, torch.from_numpy(f.tokens[i].copy()), int(f.cross[i]), targets, p]


def _kind(entry: Sequence[Any]) -> tuple[int | None, bool]:
    """Return what entries must have in common to be of one chunk."""
    _, tokens, _, targets, _ = entry
    return None if tokens is None else len(tokens), targets is None


def _chunk(entries: Sequence[Sequence[Any]]) -> _Chunk:
    ids, tokens, cross, targets, p = zip(*entries, strict=True)
    features = None
    if tokens[0] is not None:
        features = Features(
            torch.stack(tokens).numpy(),
            np.asarray(cross, np.int64),
            None if targets[0] is None else np.asarray(targets, np.float32),
        )
    return _Chunk(
        np.asarray(ids, np.int64), features, np.asarray(p, np.float32), np.ones(len(ids), np.bool_)
    )
