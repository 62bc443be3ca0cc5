"""A budget of time: what a given share of plain training's cost buys most with."""

from __future__ import annotations

import numpy as np

from finesieve.errors import ConfigError, check_cost_ratio, check_share
from finesieve.evidence import stage_prices
from finesieve.stages import Move, Stages, View
from finesieve.thresholds import ThresholdSampling


class Budget(Stages):
    """Both gates close early, and every pool gets what is left of the budget over what is left of
    the stream. Of the ways to spend that, scoring more or training on more, the one with the
    least variance is taken, replayed over the window.

    forward, backward: the rules of both gates; their shares are set.
    budget: total cost as a share of plain training's, in (0, 1).
    cost_ratio: seconds to score an example over seconds to train on it; None: both as the sieve
        measures them, by the token.
    warmup: share of the budget that stage 1 takes (256 examples at the least).
    floors, audit: as the gates have them.
    """

    SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)  # to be scored
    LEAST, SOON = 0.01, 256

    def __init__(
        self,
        forward: ThresholdSampling,
        backward: ThresholdSampling,
        budget: float,
        *,
        cost_ratio: float | None = None,
        warmup: float = 0.2,
        floors: tuple[float, float] = (0.0, 0.0),
        audit: float = 0.0,
        window: int = 2048,
    ) -> None:
        self.budget = check_share("budget", budget)
        if self.budget >= 1.0:
            raise ConfigError(
                f"budget is {budget}; expected a share of plain training's time below 1, e.g. 0.2"
            )
        self._forward, self._backward = forward, backward
        self.cost_ratio = check_cost_ratio(cost_ratio)
        self.warmup = check_share("warmup", warmup)
        self.floors, self.audit, self.window = floors, audit, window
        self.cached = True

    def _costs(self, view: View) -> tuple[float, float]:
        return view.costs if self.cost_ratio is None else (self.cost_ratio, 1.0)

    def evidence(self, view: View) -> list[float]:
        if np.isnan(view.share):
            raise ConfigError(
                "a budget is a share of the whole stream: give the sieve its length, `total`"
            )
        score, train = self._costs(view)
        left = max(0.0, self.budget - view.work.spent(score, train))
        rate = left / max(1e-3, 1.0 - view.share)
        ready = view.share >= self.warmup * self.budget and view.window.revealed >= self.SOON
        if view.stage == 1 and not ready:
            return [0.0, rate, score, train, *(0.0 for _ in self.SHARES)]
        recent = slice(-min(len(view.window), max(view.since, self.SOON)), None)
        size, predicted = (view.window.column(x)[recent] for x in ("size", "predicted"))

        def variance(share: float) -> float:
            if share > self.SHARES[0] and score * share + train * self.LEAST > rate:
                return float("inf")  # scoring alone would take all
            trained, ratio = self._train(share, rate, score, train), score / train
            price = stage_prices(
                size, predicted, view.window.weights[recent], cost_ratio=ratio, train=trained,
                score=[share], floors=self.floors, audit=self.audit,
            ).forward[0]
            return price / (ratio * (self.audit + (1 - self.audit) * share) + trained)

        return [1.0, rate, score, train, *map(variance, self.SHARES)]

    def _train(self, share: float, rate: float, score: float, train: float) -> float:
        """Share trained on that `rate` leaves when `share` is scored."""
        return min(share, max(self.LEAST, (rate - score * share) / train))

    def next(self, stage: int, numbers: list[float]) -> Move | None:
        ready, rate, score, train, *variances = numbers
        if ready < 1.0:
            return None
        share = self.SHARES[int(np.argmin(variances))]
        self._forward.share = share
        self._backward.share = self._train(share, rate, score, train)
        if stage == 1:
            return 3, (
                f"the warm-up has had its share of the budget; what is left is {rate:.2f} of plain "
                f"training: {share:.0%} are scored, {self._backward.share:.0%} trained on"
            )
        return None
