"""One pool on its way through the gates: who passes, is scored, survives, and with what weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finesieve.batches.carry import PREFIX
from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows
from finesieve.gates.features import FeatureFunction
from finesieve.gates.protocol import BoolArray, FloatArray, IntArray, Offer
from finesieve.methods.method import Method
from finesieve.scoring.batches import Scored
from finesieve.sieve.events import pool_event
from finesieve.sieve.weights import after_gates, after_opening
from finesieve.stages.policy import Shares

Scoring = Callable[[Rows, IntArray], Scored]
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class Sifted:
    """What the gates made of a pool of n.

    Args:
        offer: the pool.
        scored: the m that passed the forward gate, with loss and size if the method scores, those
            with finite ones alone.
        survivors: with their weights.
        q: float32[n], probability to pass, None where all do.
        p: float32[m], to be kept once scored, None where the gate gives none.
        passed: int64[m], places in the pool.
        kept: places in `passed`.
        bad: places in the pool of losses that were not finite.
        keep: bool[m].
        audited: bool[m] or None.
    """

    offer: Offer
    scored: Offer
    survivors: Rows
    q: FloatArray | None
    p: FloatArray | None
    passed: IntArray
    kept: IntArray
    bad: IntArray
    keep: BoolArray
    audited: BoolArray | None
    threshold: float | None

    @property
    def chances(self) -> FloatArray | None:
        """float32[kept], the survivors' probability to pass the forward gate."""
        return None if self.q is None else self.q[self.passed][self.kept]

    def event(self, scores: bool) -> dict[str, Any]:
        """Returns the event for listeners.

        Args:
            scores: whether the method has a scoring pass, and it was made.
        """
        return pool_event(
            self.offer,
            self.q,
            self.passed,
            self.bad,
            self.scored,
            self.p,
            self.kept,
            self.survivors.weights,
            scores,
        )


class Sifter:
    """Puts pools through a method's gates. Decides alone: it learns nothing and keeps nothing.

    Args:
        features: None where nobody looks at them.
    """

    def __init__(
        self,
        method: Method,
        codec: Codec,
        score: Scoring,
        features: FeatureFunction | None,
    ) -> None:
        self._method, self._codec = method, codec
        self._features, self._score = features, score

    def _offer(self, rows: Rows, stage: int, share: float | None = None) -> Offer:
        seen = self._features and self._features(self._codec.bare(rows))
        return Offer(rows.ids, stage, drawn=len(rows), features=seen, share=share)

    def opened(self, rows: Rows, shares: Shares) -> Sifted:
        """Puts a pool of stage 1 through the opening gate, unscored."""
        gate = self._method.opening
        offer = self._offer(rows, 1, shares.opening)
        verdict = gate.decide(offer).check(offer.n, gate)
        passed, q = np.flatnonzero(verdict.keep), verdict.probability
        survivors = self._codec.take(rows, passed)
        weights = after_opening(q, passed)
        if weights is not None:
            survivors.weights = weights
        everyone = np.arange(len(passed))
        return Sifted(
            offer,
            offer.take(passed),
            survivors,
            q,
            None,
            passed,
            everyone,
            _NONE,
            np.ones(len(passed), np.bool_),
            None,
            None,
        )

    def closed(self, rows: Rows, stage: int, cost_ratio: float, shares: Shares) -> Sifted:
        """Puts a pool through the forward gate (in stage 3), the scoring pass and the backward
        gate."""
        forward, backward = self._method.forward, self._method.backward
        offer = self._offer(rows, stage)
        if offer.features is not None:
            offer = replace(offer, predicted=forward.predict(offer))
        # Up to the end rows are chosen by their places in the pool, and only survivors are copied.
        passed, scored = np.arange(offer.n, dtype=np.int64), offer
        first = q = None
        if stage == 3:
            first = forward.decide(replace(offer, share=shares.score)).check(offer.n, forward)
            q, passed = first.probability, np.flatnonzero(first.keep)
            scored = offer.take(passed)
        loss = size = prefix = None
        if self._method.scores:
            loss, size, prefix = self._score(rows, passed)
        scored = replace(
            scored,
            probability=None if q is None else q[passed],
            loss=loss,
            size=size,
            cost_ratio=cost_ratio,
            share=shares.train,
        )
        bad = _NONE
        good: IntArray | None = None  # those of the scored whose losses are finite; None: all
        if loss is not None and size is not None:
            finite = np.isfinite(loss) & np.isfinite(size)
            if not finite.all():
                good, bad = np.flatnonzero(finite), passed[~finite]
                passed, scored = passed[good], scored.take(good)
        second = backward.decide(scored).check(scored.n, backward)
        kept, p = np.flatnonzero(second.keep), second.probability
        survivors = self._codec.take(rows, passed[kept])
        if prefix is not None:
            at = kept if good is None else good[kept]
            self._codec.add_placed(survivors, PREFIX, prefix, at)
        # Examples whose loss is not finite are left out of the mean, and so are those that the
        # forward gate let them stand for: 1 / q each.
        drawn = offer.n if q is None else offer.n - float((1.0 / q[bad]).sum())
        survivors.weights = after_gates(q, p, passed, kept, max(drawn, 1.0))
        audited = None if first is None or first.audited is None else first.audited[passed]
        return Sifted(
            offer,
            scored,
            survivors,
            q,
            p,
            passed,
            kept,
            bad,
            second.keep,
            audited,
            second.threshold,
        )
