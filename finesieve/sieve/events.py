"""What the sieve tells its listeners. Records go out; nothing flows back.

Events are dicts with an "event":

- "stage": stage, from_example, reason: a transition.
- "open": ids int64[n]: these pass an open sieve.
- "pool": see `pool_event`.
- "trained": ids int64[n], loss float32[n], size float32[n] or None: losses that came back from the
  training step, and gradient norms where they were given.
- "bad": count, total: examples whose loss was not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from finesieve.gates.protocol import BoolArray, FloatArray, IntArray, Offer


class Teller:
    """Calls the listeners with every event.

    It holds no reference to the sieve. Parts of the sieve can therefore hold it without a circle
    of references, which would keep the model in memory after the sieve is gone.

    Args:
        listeners: in the order in which they are called.
    """

    def __init__(self, listeners: Iterable[Callable[[dict[str, Any]], None]]) -> None:
        self.listeners = list(listeners)

    def __call__(self, event: dict[str, Any]) -> None:
        """Calls all of them; nothing flows back."""
        for listener in self.listeners:
            listener(event)

    def __bool__(self) -> bool:
        return bool(self.listeners)


def pool_event(
    offer: Offer,
    q: FloatArray | None,
    passed: IntArray,
    bad: IntArray,
    scored: Offer,
    p: FloatArray | None,
    kept: IntArray,
    weights: FloatArray,
    scores: bool,
) -> dict[str, Any]:
    """Returns the event of a pool: for each of its n examples what was foreseen, found and decided.

    Arrays are [n]; what is unknown is NaN. `weight` is that in the batch, 0 if not trained on;
    `scored` and `kept_out` are bool.

    Args:
        offer: the whole pool.
        q: float32[n], probability to pass the forward gate; None where it was open.
        passed: int64[m], places in the pool of those that passed the forward gate and, where they
            were scored, have a finite loss.
        bad: int64, places of those that were scored and have none.
        scored: the offer of those in `passed`.
        p: float32[m], probability to pass the backward gate; None where it does not weigh.
        kept: int64[k], places in `passed`.
        weights: float32[k].
        scores: whether there was a scoring pass.
    """

    def spread(values: Any, at: Any) -> FloatArray:
        out = np.full(offer.n, np.nan, dtype=np.float32)
        if values is not None:
            out[at] = values
        return out

    def among(at: IntArray) -> BoolArray:
        out = np.zeros(offer.n, dtype=np.bool_)
        out[at] = True
        return out

    return {
        "event": "pool",
        "stage": offer.stage,
        "ids": offer.ids,
        "predicted": spread(offer.predicted, slice(None)),
        "forward_probability": spread(q, slice(None)),
        "scored": among(passed) & scores,
        "kept_out": among(bad),
        "loss": spread(scored.loss, passed),
        "size": spread(scored.size, passed),
        "backward_probability": spread(p, passed),
        "weight": np.nan_to_num(spread(weights, passed[kept])),
    }
