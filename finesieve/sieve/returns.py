"""Losses that come back from the user's step, matched by id with what was handed out.

Batches may come back late, in parts or in another order (hosts read ahead), hence by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finesieve.errors import ConfigError
from finesieve.gates.protocol import Features, FloatArray, IntArray, Offer, State

# tokens int64[m] or None, cross, targets or None, probability
_Entry = tuple[IntArray | None, int, float | None, float]


class Returns:
    """What was handed out unscored, and the losses that came back for it.

    most: examples handed out without a loss coming back, before that is an error.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._expected: dict[int, _Entry] = {}
        self._given: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._ever = False  # whether any loss ever came back

    def crowded(self, n: int, held: int) -> bool:
        """Whether more are out than any host has under way, in batches of n; held: of those
        expected, how many were not handed out yet."""
        return len(self._expected) - held > max(self._most, 16 * n)

    @property
    def ever(self) -> bool:
        """Whether any loss ever came back."""
        return self._ever

    @property
    def waiting(self) -> int:
        """Batches of losses that came back and were not collected yet."""
        return len(self._given)

    def expect(
        self, ids: IntArray, features: Features | None, probability: FloatArray | None, held: int
    ) -> None:
        """Losses of these will come back, once they are handed out."""
        if self.crowded(len(ids), held):
            if not self._ever:
                raise ConfigError(
                    f"{len(self._expected) - held} examples were handed out and no loss came back: "
                    "call sieve.loss(losses, batch) in the training step, with the batch as it "
                    "came"
                )
            for key in list(self._expected)[: len(ids)]:  # the oldest will not come any more
                del self._expected[key]
        for i, key in enumerate(ids.tolist()):
            p = 1.0 if probability is None else float(probability[i])
            if features is None:
                self._expected[key] = (None, 0, None, p)
            else:
                targets = None if features.targets is None else float(features.targets[i])
                self._expected[key] = (features.tokens[i], int(features.cross[i]), targets, p)

    def give(self, ids: Tensor, losses: Tensor, sizes: Tensor | None = None) -> None:
        """Keep losses where they are (no device synchronisation) until they are collected."""
        self._given.append((ids, losses, sizes))
        self._ever = True

    def collect(self) -> Iterator[tuple[IntArray, FloatArray, Offer | None]]:
        """For each batch given: its ids, its losses, and an offer of those that were expected
        and finite (None if there are none)."""
        given, self._given = self._given, []
        for id_tensor, loss_tensor, size_tensor in given:
            ids = id_tensor.cpu().numpy()
            losses = loss_tensor.float().cpu().numpy()
            sizes = None if size_tensor is None else size_tensor.float().cpu().numpy()
            found, entries = [], []
            for i, key in enumerate(ids.tolist()):
                entry = self._expected.pop(key, None)
                if entry is not None and np.isfinite(losses[i]):
                    found.append(i)
                    entries.append(entry)
            if not found:
                yield ids, losses, None
                continue
            size = None if sizes is None else sizes[found]
            yield ids, losses, self._offer(ids[found], losses[found], size, entries)

    @staticmethod
    def _offer(
        ids: IntArray,
        losses: FloatArray,
        sizes: FloatArray | None,
        entries: list[_Entry],
    ) -> Offer:
        features = None
        if all(tokens is not None for tokens, *_ in entries):
            rows = [tokens for tokens, *_ in entries if tokens is not None]
            tokens = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
            for i, row in enumerate(rows):
                tokens[i, : len(row)] = row
            cross = np.asarray([c for _, c, _, _ in entries], dtype=np.int64)
            counts = [t for _, _, t, _ in entries if t is not None]
            targets = np.asarray(counts, dtype=np.float32) if len(counts) == len(rows) else None
            features = Features(tokens, cross, targets)
        probability = np.asarray([p for *_, p in entries], dtype=np.float32)
        return Offer(
            ids, 1, features=features, probability=probability, loss=losses, size=sizes
        )

    def state_dict(self) -> State:
        expected = [
            [key, None if t is None else torch.from_numpy(np.array(t)), cross, targets, p]
            for key, (t, cross, targets, p) in self._expected.items()
        ]
        given = [
            [ids.cpu(), losses.cpu(), None if sizes is None else sizes.cpu()]
            for ids, losses, sizes in self._given
        ]
        return {"expected": expected, "given": given, "ever": self._ever}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._expected = {
            key: (None if t is None else t.numpy().copy(), cross, targets, p)
            for key, t, cross, targets, p in state["expected"]
        }
        self._given = [(ids, losses, sizes) for ids, losses, sizes in state["given"]]
        self._ever = state["ever"]
