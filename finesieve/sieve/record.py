"""What a run showed of each example: its losses and gradient norms over time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from finesieve.gates.protocol import BoolArray, FloatArray, IntArray
from finesieve.sieve.table import Table

MOST = 2_000_000  # observations kept, the newest: 17 bytes each
_TOGETHER = 4096  # observations that are kept in one array: a small one has a hundred bytes besides
_LOG = logging.getLogger("finesieve")

# Ids, losses, gradient norms if they were measured, and whether the examples were trained on then.
Part = tuple[IntArray, FloatArray, FloatArray | None, bool]
Columns = tuple[IntArray, FloatArray, FloatArray, BoolArray]


class Record:
    """Keeps what was observed of each example; can be a listener of a sieve, too.

    Args:
        most: observations to keep; older ones are forgotten, so that an endless stream can be
            recorded.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._parts: deque[Columns] = deque()
        self._new: list[Part] = []  # not put together yet
        self._held = self._waiting = 0  # observations, of all and of the new parts

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes in an event of the sieve."""
        if event["event"] == "trained":
            ids, loss = event["ids"], event["loss"]
            self.add(ids, loss, event.get("size"), True)
        elif event["event"] == "pool":
            known = np.flatnonzero(event["scored"] & ~event["kept_out"])
            self.add(event["ids"][known], event["loss"][known], event["size"][known], False)

    def add(self, ids: IntArray, loss: FloatArray, size: FloatArray | None, trained: bool) -> None:
        """Takes in observations.

        Args:
            ids: int64[n].
            loss: float32[n].
            size: float32[n], the gradient norms; None where they were not measured.
            trained: whether the examples were trained on, or only scored.
        """
        if len(ids) == 0:
            return
        self._new.append((ids, loss, size, trained))
        self._held += len(ids)
        self._waiting += len(ids)
        if self._waiting >= min(_TOGETHER, self._most // 8):
            # Copied, also lest a view keep all the losses alive that it is one of.
            self._parts.append(_columns(self._new))
            self._new, self._waiting = [], 0
        while self._held > self._most and len(self._parts) > 1:
            self._held -= len(self._parts.popleft()[0])

    def history(self) -> Table:
        """Returns every observation in order: `id`, `loss`, `gradient_norm` (NaN where it was not
        measured), and `trained`, whether the example was trained on then or only scored."""
        ids, loss, size, trained = (
            np.concatenate(columns)
            for columns in zip(*self._parts, _columns(self._new), strict=True)
        )
        return Table({"id": ids, "loss": loss, "gradient_norm": size, "trained": trained})

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


def _columns(parts: list[Part]) -> Columns:
    """Returns the parts one after another, column by column; a norm that is not known is NaN."""
    counts = [len(ids) for ids, _, _, _ in parts]
    size = np.full(sum(counts), np.nan, dtype=np.float32)
    end = 0
    for count, (_, _, known, _) in zip(counts, parts, strict=True):
        end += count
        if known is not None:
            size[end - count : end] = known
    return (
        np.concatenate([np.empty(0, np.int64), *(ids for ids, _, _, _ in parts)]),
        np.concatenate([np.empty(0, np.float32), *(loss for _, loss, _, _ in parts)]),
        size,
        np.repeat(np.array([trained for *_, trained in parts], dtype=np.bool_), counts),
    )


class Spikes:
    """A listener that reports the examples behind a spike of the training loss.

    Args:
        tell: is called with the ids of the batch, the largest loss first, and their losses; by
            default a warning of Python's `logging` names the first five.
        times: a spike is a mean loss so many times as high above the median of the batches before
            it as these were scattered around it (median absolute deviation, scaled to a normal
            distribution's standard deviation).
        batches: that the median is taken of.
    """

    def __init__(
        self,
        tell: Callable[[IntArray, FloatArray], None] | None = None,
        times: float = 6.0,
        batches: int = 64,
    ) -> None:
        self._tell, self._times = tell or _logged, times
        self._means: deque[float] = deque(maxlen=batches)

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes in an event of the sieve."""
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


def _logged(ids: IntArray, losses: FloatArray) -> None:
    """Warns of a spike, by way of `logging`."""
    first = ", ".join(f"{i} ({x:.3g})" for i, x in zip(ids[:5].tolist(), losses[:5], strict=False))
    _LOG.warning(
        "the training loss has a spike: its batch of %d has the mean %.3g; examples with the "
        "largest losses: %s",
        len(ids),
        float(losses.mean()),
        first,
    )
