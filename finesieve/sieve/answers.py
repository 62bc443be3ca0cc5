"""What rows of tokens are like, noted as they are drawn: how long, how many targets, if cut."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.device import to_device
from finesieve.batches.rows import Rows
from finesieve.gates.features import IGNORED
from finesieve.gates.protocol import IntArray
from finesieve.scoring.heads import Tokens
from finesieve.sieve.record import MOST

NEAR = 3  # last targets among which an end is looked for: chat templates put a line break behind it
_TOGETHER = 64  # batches whose counts are read from their device at once
_KINDS = np.int64, np.int32, np.int32, np.bool_  # of the columns

Part = tuple[np.ndarray[Any, Any], ...]


def ends_of(model: Any) -> tuple[int, ...]:
    """Returns the ids of the tokens that end a text, as the model's configurations have them."""
    model = getattr(model, "module", model)
    found: set[int] = set()
    for name in ("generation_config", "config"):
        ids = getattr(getattr(model, name, None), "eos_token_id", None)
        found |= {
            int(i) for i in (ids if isinstance(ids, (list, tuple)) else [ids]) if i is not None
        }
    return tuple(sorted(found))


def ended(labels: Tensor, ends: Tensor) -> Tensor:
    """Returns whether one of a row's last `NEAR` targets is an end, bool[n].

    Args:
        labels: int[n, length], -100 where there is no target.
        ends: int[m], ids of tokens that end a text.
    """
    real = labels != IGNORED
    behind = real.flip(1).cumsum(dim=1).flip(1)  # targets from here on
    return (real & (behind <= NEAR) & torch.isin(labels, ends)).any(dim=1)


def cut_rows(size: IntArray, whole: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Returns which rows were cut, bool[n]: they are as long as the longest, and have no end.

    Where no row has an end, a row counts as cut if another is exactly as long: one limit cut both.

    Args:
        size: int[n], tokens. whole: bool[n], whether a row has an end.
    """
    if len(size) == 0:
        return np.zeros(0, dtype=np.bool_)
    full = np.asarray(size == size.max())
    several = bool(whole.any()) or np.count_nonzero(full) > 1
    return np.asarray(full & ~whole & several)


class Answers:
    """Keeps what is known of each row of tokens that the sieve drew, the newest `most` of them.

    Nothing waits for a device as rows are drawn: counts stay there until many can be read at once.

    Args:
        head: the task.
        ends: ids of tokens that end a text; none for token classification.
        own: whether targets are another text than the input's, as an encoder-decoder has them.
        most: rows to keep, 17 bytes each.
    """

    def __init__(
        self, head: Tokens, ends: tuple[int, ...] = (), own: bool = False, most: int = MOST
    ) -> None:
        self._head, self._own, self._most = head, own, most
        self._ends = torch.tensor(ends, dtype=torch.int64)
        self._new: list[tuple[IntArray, IntArray, Tensor, Tensor]] = []
        self._parts: deque[Part] = deque()
        self._held = 0

    @classmethod
    def of(cls, scorer: Any) -> Answers | None:
        """Returns what keeps them for a scorer's task; None where targets are no tokens."""
        head, model = getattr(scorer, "head", None), getattr(scorer, "model", None)
        if not isinstance(head, Tokens):
            return None
        own = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        return cls(head, ends_of(model) if head.shift or own else (), own)

    def see(self, rows: Rows) -> None:
        """Takes in rows as they were drawn."""
        key = self._head.targets[0]
        labels = rows.columns.get(key)
        if labels is None and key not in rows.columns and 0 in rows.columns:
            labels = rows.columns[len(rows.columns) - 1]  # of a tuple, the last
        if not isinstance(labels, Tensor) or labels.ndim != 2 or labels.is_floating_point():
            return
        self._ends = to_device(self._ends, labels.device)
        whole = ended(labels, self._ends)
        self._new.append((rows.ids, rows.lengths, self._head.count(labels), whole))
        if len(self._new) >= _TOGETHER:
            self._read()

    def _read(self) -> None:
        if not self._new:
            return
        ids, lengths, targets, whole = zip(*self._new, strict=True)
        columns = (
            np.concatenate(ids),
            np.concatenate(lengths),
            torch.cat(targets).cpu().numpy(),
            torch.cat(whole).cpu().numpy(),
        )
        self._new = []
        self._parts.append(
            tuple(column.astype(kind) for column, kind in zip(columns, _KINDS, strict=True))
        )
        self._held += len(columns[0])
        while self._held > self._most and len(self._parts) > 1:
            self._held -= len(self._parts.popleft()[0])

    def columns(self, ids: IntArray) -> dict[str, Any]:
        """Returns columns for these examples, int64[n], of which what was forgotten is -1 or False.

        They are `tokens` and `targets`, int32[n]; and where it is known which tokens end a text,
        `ended` and `cut`, bool[n]: whether the last targets hold such a token, and whether the row
        has none and is as long as the longest, so that a limit has cut it.
        """
        self._read()
        parts = self._parts or [tuple(np.empty(0, kind) for kind in _KINDS)]
        known, tokens, targets, whole = (np.concatenate(x) for x in zip(*parts, strict=True))
        # Of several passes the last one counts.
        known, last = np.unique(known[::-1], return_index=True)
        tokens, targets, whole = (x[::-1][last] for x in (tokens, targets, whole))
        cut = cut_rows(targets if self._own else tokens, whole)
        at = np.minimum(np.searchsorted(known, ids), max(0, len(known) - 1))
        found = known[at] == ids if len(known) else np.zeros(len(ids), dtype=np.bool_)

        def of(column: Any, missing: Any) -> Any:
            return np.where(found, column[at] if len(column) else missing, missing).astype(
                column.dtype
            )

        out = {"tokens": of(tokens, -1), "targets": of(targets, -1)}
        if len(self._ends):
            out |= {"ended": of(whole, False), "cut": of(cut, False)}
        return out
