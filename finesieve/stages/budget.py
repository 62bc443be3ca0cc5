"""A budget of time: what a given share of plain training's cost buys most with."""

from __future__ import annotations

import numpy as np

from finesieve.errors import ConfigError, check_share
from finesieve.stages.policy import Decision, Shares, Stages, View
from finesieve.stages.prices import POOL, Known, Rules


def check_budget(share: float | None) -> float:
    """Returns the share of plain training's cost.

    Raises:
        ConfigError: unless it lies in (0, 1).
    """
    if share is None or check_share("budget", share) >= 1.0:
        raise ConfigError(
            f"budget is {share}; expected a share of plain training's time below 1, e.g. 0.2: that "
            "of the method's opening gate, as in Method(..., opening=Random(0.2))"
        )
    return float(share)


class Budget(Stages):
    """Every pool gets what is left of the budget over what is left of the stream.

    Stage 1 spends that on a random share, unscored. When choosing has less variance than a
    random share of the same cost, by a margin, both gates close, and of the ways to spend it,
    scoring more or training on more, the one with the least variance is taken; when it has more,
    they open again.
    Variances are replayed over the window, pool by pool: that sizes fall from pool to pool as the
    model learns is nothing that a choice inside a pool could use.

    The budget is the share that the method's opening gate was made with: total cost as a share of
    plain training's, in (0, 1). All three gates are given their shares; floors and audit are theirs
    (`View.limits`), and so is the cost ratio, if the backward gate was told one: else costs are as
    the sieve measures them, by the token.

    Args:
        margin: by how much the variance must be less before the gates close; they open again where
            it is more. Wide, because choosing leaves fewer optimizer steps than a random share of
            the same cost, and in short trainings steps are what is short.
        patience: revealed examples that a stage lasts at least.
    """

    SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)  # to be scored
    LEAST, END = 0.01, 0.03  # what is left of the stream at the end is too little to steer by

    def __init__(self, *, margin: float = 0.5, patience: int = 512, window: int = 2048) -> None:
        self.margin = check_share("margin", margin, zero=True)
        if not 1 <= patience <= window:
            raise ConfigError(f"patience is {patience}; expected 1 to the window's {window}")
        self.patience, self.window = patience, window
        self.cached = True

    def evidence(self, view: View) -> list[float]:
        """Return whether it is time to decide (1 or 0), the training steps an example that the
        budget leaves, the costs to score and to train, and for each share to score the variance
        over that of a random share of the same cost."""
        if np.isnan(view.share):
            raise ConfigError(
                "a budget is a share of the whole stream: give the sieve its length, `total`"
            )
        forward, backward = view.limits.forward, view.limits.backward
        told = backward.cost_ratio
        score, train = view.costs if told is None else (told, 1.0)
        left = max(0.0, check_budget(view.limits.opening.share) - view.work.spent(score, train))
        rest = max(self.END, 1.0 - view.share)
        rate = min(1.0, max(self.LEAST, left / rest))
        if view.since < self.patience or rest <= self.END:
            return [0.0, rate, score, train, *(0.0 for _ in self.SHARES)]
        window, recent = view.window, slice(-min(len(view.window), view.since), None)
        known = Known(
            window.column("size")[recent],
            window.weights[recent],
            window.column("predicted")[recent],
        )
        ratio = score / train
        rules = Rules(ratio, (forward.floor, backward.floor), forward.audit)
        # Of the others scoring alone would take all.
        shares = [x for x in self.SHARES if not score * x + train * self.LEAST > rate]
        trained = [self._train(x, rate, score, train) for x in shares]
        found = dict.fromkeys(self.SHARES, float("inf"))
        if shares and known.foreseen and known.size.any():
            prices = known.price(
                [one.costs(one.chances(rules, shares), rules, trained) for one in known.pools(POOL)]
            )
            for share, its, price in zip(shares, trained, prices, strict=True):
                cost = ratio * (forward.audit + (1 - forward.audit) * share) + its
                found[share] = price / cost * rate
        return [1.0, rate, score, train, *found.values()]

    def _train(self, share: float, rate: float, score: float, train: float) -> float:
        """Returns the share trained on that `rate` leaves when `share` is scored."""
        return min(share, max(self.LEAST, (rate - score * share) / train))

    def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
        """Returns the shares that spend what is left of the budget, and a transition: to stage 3
        where choosing lowers the variance enough, back to 1 where it does not."""
        ready, rate, score, train, *variances = numbers
        scored = self.SHARES[int(np.argmin(variances))] if ready >= 1.0 else shares.score
        trained = None if scored is None else self._train(scored, rate, score, train)
        shares = Shares(rate, scored, trained)
        if scored is None or ready < 1.0:
            return Decision(None, shares)
        variance = min(variances)
        how = f"{variance:.2f} of the variance of a random share of the same cost, {rate:.0%}"
        if stage == 1 and variance < 1.0 - self.margin:
            why = f"scoring {scored:.0%} and training on {trained:.0%} has {how}"
            return Decision((3, why), shares)
        if stage == 3 and variance > 1.0:
            return Decision((1, f"choosing has {how}"), shares)
        return Decision(None, shares)
