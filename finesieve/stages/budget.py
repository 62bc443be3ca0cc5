"""A budget of time: what a given share of plain training's cost buys most with."""

from __future__ import annotations

import numpy as np

from finesieve.errors import ConfigError, check_cost_ratio, check_share
from finesieve.gates.sampling import ThresholdSampling
from finesieve.gates.simple import Random
from finesieve.stages.policy import Move, Stages, View
from finesieve.stages.prices import stage_prices


class Budget(Stages):
    """Every pool gets what is left of the budget over what is left of the stream.

    Stage 1 spends that on a random share, unscored. When choosing has less variance than a
    random share of the same cost, by a margin, both gates close, and of the ways to spend it,
    scoring more or training on more, the one with the least variance is taken; when it has more,
    they open again.
    Variances are replayed over the window.

    opening, forward, backward: the gates' rules; their shares are set. That of `opening` is the
        budget to begin with: total cost as a share of plain training's, in (0, 1).
    cost_ratio: seconds to score an example over seconds to train on it; None: both as the sieve
        measures them, by the token.
    margin: by how much the variance must be less before the gates close; they open again where it
        is more. Wide, because choosing leaves fewer optimizer steps than a random share of the same
        cost, and in short trainings steps are what is short.
    patience: revealed examples that a stage lasts at least.
    floors, audit: as the gates have them.
    """

    SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)  # to be scored
    LEAST, END = 0.01, 0.03  # what is left of the stream at the end is too little to steer by

    def __init__(
        self,
        opening: Random,
        forward: ThresholdSampling,
        backward: ThresholdSampling,
        *,
        cost_ratio: float | None = None,
        margin: float = 0.5,
        patience: int = 512,
        floors: tuple[float, float] = (0.0, 0.0),
        audit: float = 0.0,
        window: int = 2048,
    ) -> None:
        self.budget = opening.share
        if self.budget >= 1.0:
            raise ConfigError(
                f"budget is {self.budget}; expected a share of plain training's time below 1, "
                "e.g. 0.2"
            )
        self._opening, self._forward, self._backward = opening, forward, backward
        self.cost_ratio = check_cost_ratio(cost_ratio)
        self.margin = check_share("margin", margin, zero=True)
        if not 1 <= patience <= window:
            raise ConfigError(f"patience is {patience}; expected 1 to the window's {window}")
        self.patience = patience
        self.floors, self.audit, self.window = floors, audit, window
        self.cached = True

    def evidence(self, view: View) -> list[float]:
        """Ready or not, training steps an example that the budget leaves, costs to score and to
        train, and the variance for each share scored over that of a random share."""
        if np.isnan(view.share):
            raise ConfigError(
                "a budget is a share of the whole stream: give the sieve its length, `total`"
            )
        score, train = view.costs if self.cost_ratio is None else (self.cost_ratio, 1.0)
        left = max(0.0, self.budget - view.work.spent(score, train))
        rest = max(self.END, 1.0 - view.share)
        rate = min(1.0, max(self.LEAST, left / rest))
        if view.since < self.patience or rest <= self.END:
            return [0.0, rate, score, train, *(0.0 for _ in self.SHARES)]
        recent = slice(-min(len(view.window), view.since), None)
        size, predicted = (view.window.column(x)[recent] for x in ("size", "predicted"))

        def variance(share: float) -> float:
            if score * share + train * self.LEAST > rate:
                return float("inf")  # scoring alone would take all
            trained, ratio = self._train(share, rate, score, train), score / train
            price = stage_prices(
                size, predicted, view.window.weights[recent], cost_ratio=ratio, train=trained,
                score=[share], floors=self.floors, audit=self.audit,
            ).forward[0]
            cost = ratio * (self.audit + (1 - self.audit) * share) + trained
            return price / cost * rate

        return [1.0, rate, score, train, *map(variance, self.SHARES)]

    def _train(self, share: float, rate: float, score: float, train: float) -> float:
        """Share trained on that `rate` leaves when `share` is scored."""
        return min(share, max(self.LEAST, (rate - score * share) / train))

    def next(self, stage: int, numbers: list[float]) -> Move | None:
        ready, rate, score, train, *variances = numbers
        self._opening.share = rate
        if ready >= 1.0:
            self._forward.share = self.SHARES[int(np.argmin(variances))]
        share = self._forward.share or 1.0
        self._backward.share = self._train(share, rate, score, train)
        if ready < 1.0:
            return None
        variance = min(variances)
        how = f"{variance:.2f} of the variance of a random share of the same cost, {rate:.0%}"
        if stage == 1 and variance < 1.0 - self.margin:
            return 3, f"scoring {share:.0%} and training on {self._backward.share:.0%} has {how}"
        if stage == 3 and variance > 1.0:
            return 1, f"choosing has {how}"
        return None
