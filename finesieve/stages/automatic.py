"""Moves to the stage that is cheapest by variance x cost, replayed over the window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from finesieve.errors import ConfigError, check_share
from finesieve.stages.policy import Decision, Move, Shares, Stages, View
from finesieve.stages.prices import POOL, stage_prices


class Automatic(Stages):
    """Be in the cheapest stage, by variance x cost replayed over the window.

    Every stage has a price (`Prices`): what a given amount of information costs there, in units
    of plain training. A gate closes when that is cheaper by a margin, and opens again when it
    is dearer by two, so data from which nothing can be skipped are trained on plainly.

    It prices threshold sampling with the settings that the method's gates have (`View.limits`). A
    backward gate without a share balances variance and cost, and keeps no less than its `least`. A
    forward gate without a share gets the cheapest of `SHARES`. A backward gate with a cost ratio of
    its own is believed, and a survivor then costs what an example of plain training does; without
    one both are as measured. For MiniLM on a CPU in bf16 scoring is 0.27 to 0.39 of plain training
    (1/3 is the usual 1:2 split of forward and backward, without the optimizer), a survivor in half
    batches 1.0 to 1.5.

    Args:
        margin: by how much cheaper than plain training a stage must be before a gate closes; twice
            as much dearer, and both open again. By as much must the forward gate make stage 2
            cheaper before it closes: where scoring costs next to nothing it has nothing to save.
        slack: how much dearer than stage 2 stage 3 may become before the forward gate opens again:
            its price is the noisier to measure.
        warmup: share of the stream that stage 1 lasts at least (where the total is known).
        patience: revealed examples that a stage lasts at least; the first one a pool of them, since
            with a fitted head sizes mean something from the beginning (with a random one they are
            alike, and no gate closes).
    """

    SHARES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8)

    def __init__(
        self,
        *,
        margin: float = 0.05,
        slack: float = 0.25,
        warmup: float = 0.02,
        patience: int = 1024,
        window: int = 2048,
        recent: int = 1024,
    ) -> None:
        self.recent = recent
        self.margin = check_share("margin", margin, zero=True)
        self.warmup = check_share("warmup", warmup, zero=True)
        if patience < 1 or patience > window:
            raise ConfigError(f"patience is {patience}; expected 1 to the window's {window}")
        if recent < 1:
            raise ConfigError(f"recent is {recent}; expected a number of examples, 1 or more")
        if not slack >= 0:
            raise ConfigError(f"slack is {slack}; expected 0 or more, e.g. 0.25")
        self.slack, self.patience, self.window = slack, patience, window
        self.earliest = min(patience, POOL)
        self.cached = True

    def evidence(self, view: View) -> list[float]:
        """Returns whether it is time to decide (1 or 0), the concentration of sizes, and the prices
        of stage 2 and of stage 3, over plain training's: one for each share to score that comes
        into question."""
        forward, backward = view.limits.forward, view.limits.backward
        shares = self.SHARES if forward.share is None else (forward.share,)
        unknown = float("inf")
        first = view.since == view.window.revealed
        patience = self.earliest if first else self.patience
        if view.since < patience or (view.stage == 1 and view.share < self.warmup):
            return [0.0, 0.0, unknown, *(unknown for _ in shares)]
        window = view.window
        recent = slice(-min(len(window), view.since, self.recent), None)
        # Survivors cost more each than plain training's examples, in smaller batches above all.
        told = backward.cost_ratio
        score, train = view.costs if told is None else (told, 1.0)
        prices = stage_prices(
            window.column("size")[recent],
            window.column("predicted")[recent],
            window.weights[recent],
            train=backward.share,
            score=shares,
            cost_ratio=score / train,
            floors=(forward.floor, backward.floor),
            audit=forward.audit,
            least=backward.least,
            labels=window.column("label")[recent].astype(np.int64),
            pool=POOL,
            memo=window.memo,
            first=window.revealed + recent.start,
        )
        return [
            1.0,
            window.concentration(),
            *(train * price for price in (prices.backward, *prices.forward)),
        ]

    def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
        """Returns the transition that is due at these prices, and the share to score at which stage
        3 is cheapest."""
        ready, concentration, backward, *forwards = numbers
        if ready < 1.0:
            return Decision(None, shares)
        forward = min(forwards)
        if len(forwards) > 1 and forward < float("inf"):  # one alone: the gate's own share
            score = self.SHARES[forwards.index(forward)]
            shares = shares if shares.score == score else replace(shares, score=score)
        return Decision(self._move(stage, concentration, backward, forward), shares)

    def _move(
        self, stage: int, concentration: float, backward: float, forward: float
    ) -> Move | None:
        """Return the transition that is due at these prices of stage 2 and stage 3."""
        best = min(backward, forward)
        close, dear = 1.0 - self.margin, 1.0 + 2 * self.margin
        if stage == 1 and best < close:
            # Where scoring everything does not pay, training losses have judged the predictor.
            target, price, what = 2, backward, "the backward gate"
            if backward >= close:
                target, price, what = 3, forward, "both gates"
            return target, (
                f"sizes are concentrated enough ({concentration:.2f}): with {what} closed the "
                f"same information costs {price:.2f} of plain training"
            )
        if stage == 1:
            return None
        if stage == 2 and forward <= close * min(1.0, backward):
            return 3, (
                f"the predictor has proved itself: {forward:.2f} of plain training with it, "
                f"{backward:.2f} without"
            )
        here = backward if stage == 2 else forward
        if here >= dear and backward >= 1.0:
            return 1, f"skipping does not pay now: it costs {here:.2f} of plain training"
        if stage == 3 and forward >= min(dear, (1.0 + self.slack) * backward):
            return 2, (
                f"the predictor has degraded: {forward:.2f} of plain training with it, "
                f"{backward:.2f} without"
            )
        return None
