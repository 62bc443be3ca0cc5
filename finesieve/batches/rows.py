"""Rows hold examples apart from their batches, column by column, and can be saved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.padding import Column
from finesieve.gates.protocol import FloatArray, IntArray, State


@dataclass(slots=True)
class Rows:
    """n examples, column by column.

    Args:
        columns: tensors [n, ...] or lists of n.
        lengths: int64[n], real tokens of each example.
        ids: int64[n].
        weights: float32[n], of mean about 1.
        spans: float64[n], how many drawn examples each stands for; adds up to what was drawn.
    """

    columns: dict[Hashable, Column]
    lengths: IntArray
    ids: IntArray
    weights: FloatArray
    spans: np.ndarray[Any, np.dtype[np.float64]]
    _tokens: int = -1
    _longest: int = -1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """Real tokens of all examples: counted once, for lengths stay as they are."""
        if self._tokens < 0:
            self._tokens = int(self.lengths.sum())
        return self._tokens

    @property
    def longest(self) -> int:
        """Real tokens of the longest example, of one at least: looked up once, too."""
        if self._longest < 0:
            self._longest = int(self.lengths.max())
        return self._longest


@lru_cache(maxsize=64)
def as_drawn(n: int) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.float64]]]:
    """Returns the weights and the spans of n examples that nothing was decided on: ones, made once
    for each n and not to be written to."""
    weights, spans = np.ones(n, np.float32), np.ones(n, np.float64)
    weights.flags.writeable = spans.flags.writeable = False
    return weights, spans


def rows_state(rows: Rows) -> State:
    """Returns rows as tensors and plain types, on the CPU."""
    return {
        "columns": {
            k: c.cpu() if isinstance(c, Tensor) else list(c) for k, c in rows.columns.items()
        },
        "lengths": torch.from_numpy(rows.lengths.copy()),
        "ids": torch.from_numpy(rows.ids.copy()),
        "weights": torch.from_numpy(rows.weights.copy()),
        "spans": torch.from_numpy(rows.spans.copy()),
    }


def rows_from_state(state: Mapping[str, Any], device: torch.device | str = "cpu") -> Rows:
    """Returns the rows that `rows_state` wrote.

    Args:
        device: where the loader's batches are; all tensors are put there.
    """
    columns = state["columns"].items()
    return Rows(
        {k: c.to(device, copy=True) if isinstance(c, Tensor) else list(c) for k, c in columns},
        *(state[k].numpy().copy() for k in ("lengths", "ids", "weights", "spans")),
    )
