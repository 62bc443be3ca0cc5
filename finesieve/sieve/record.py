"""What a run showed of each example: its losses and gradient norms over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from finesieve.gates.protocol import FloatArray, IntArray
from finesieve.sieve.table import Table

MOST = 2_000_000  # observations kept, the newest: 24 bytes each


class Record:
    """A listener of the sieve that keeps what was observed of each example.

    most: observations to keep; older ones are forgotten, so that an endless stream can be recorded.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._parts: deque[tuple[IntArray, FloatArray, FloatArray, bool]] = deque()
        self._held = 0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "trained":
            ids, loss = event["ids"], event["loss"]
            self._add(ids, loss, event.get("size"), True)
        elif event["event"] == "pool":
            known = np.flatnonzero(event["scored"] & ~event["kept_out"])
            self._add(event["ids"][known], event["loss"][known], event["size"][known], False)

    def _add(self, ids: IntArray, loss: FloatArray, size: FloatArray | None, trained: bool) -> None:
        if len(ids) == 0:
            return
        size = np.full(len(ids), np.nan, dtype=np.float32) if size is None else size
        self._parts.append((ids, loss, size, trained))
        self._held += len(ids)
        while self._held > self._most and len(self._parts) > 1:
            self._held -= len(self._parts.popleft()[0])

    def history(self) -> Table:
        """Returns every observation in order: `id`, `loss`, `gradient_norm` (NaN where it was not
        measured), and `trained`, whether the example was trained on then or only scored."""
        parts = list(self._parts)

        def joined(column: int, dtype: Any) -> Any:
            return np.concatenate([np.empty(0, dtype), *(part[column] for part in parts)])

        trained = [np.full(len(part[0]), part[3]) for part in parts]
        return Table(
            {
                "id": joined(0, np.int64),
                "loss": joined(1, np.float32),
                "gradient_norm": joined(2, np.float32),
                "trained": np.concatenate([np.empty(0, bool), *trained]),
            }
        )

    def table(self) -> Table:
        """Returns one row an example, ordered by id: `id`; `times` it was observed and `trained`
        on; `first_loss`, measured before it was trained on if its beginning was recorded, so out
        of sample; `last_loss`; `gradient_norm`, the last one measured."""
        seen = self.history()
        ids, first, back = np.unique(seen["id"], return_index=True, return_inverse=True)
        last = np.zeros(len(ids), dtype=np.int64)
        np.maximum.at(last, back, np.arange(len(back)))
        norm = np.full(len(ids), np.nan, dtype=np.float32)
        measured = np.flatnonzero(np.isfinite(seen["gradient_norm"]))
        norm[back[measured]] = seen["gradient_norm"][measured]  # of several, the last one stays
        return Table(
            {
                "id": ids,
                "times": np.bincount(back, minlength=len(ids)),
                "trained": np.bincount(back, weights=seen["trained"], minlength=len(ids)).astype(
                    np.int64
                ),
                "first_loss": seen["loss"][first],
                "last_loss": seen["loss"][last],
                "gradient_norm": norm,
            }
        )


class Spikes:
    """A listener that reports the examples behind a spike of the training loss.

    Args:
        tell: is called with the ids of the batch, the largest loss first, and their losses.
        times: a spike is a mean loss so many times as high above the median of the batches before
            it as these were scattered around it (median absolute deviation, scaled to a normal
            distribution's standard deviation).
        batches: that the median is taken of.
    """

    def __init__(
        self, tell: Callable[[IntArray, FloatArray], None], times: float = 6.0, batches: int = 64
    ) -> None:
        self._tell, self._times = tell, times
        self._means: deque[float] = deque(maxlen=batches)

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] != "trained" or len(event["ids"]) == 0:
            return
        loss = event["loss"]
        mean = float(loss.mean())
        if len(self._means) >= 16:
            middle = float(np.median(self._means))
            scatter = 1.4826 * float(np.median(np.abs(np.asarray(self._means) - middle)))
            if not mean <= middle + self._times * max(scatter, 0.01 * abs(middle)):  # NaN is one
                order = np.argsort(-np.nan_to_num(loss, nan=np.inf), kind="stable")
                self._tell(event["ids"][order], loss[order])
        if np.isfinite(mean):
            self._means.append(mean)
