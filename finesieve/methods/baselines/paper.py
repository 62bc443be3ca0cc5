"""The gates and the stages of Ouyang et al., IJCAI 2023 (arXiv 2207.14386)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finesieve.errors import ConfigError, check_share
from finesieve.gates.protocol import Gate, Offer, State, Verdict
from finesieve.methods.baselines.loss_rules import History
from finesieve.stages.policy import Decision, Shares, Stages, View


class LossThreshold(Gate):
    """The paper's rule: keep an example iff its loss is above a threshold; all weigh the same.

    The threshold is the mean of the last `window` losses of stage 1, and frozen after it. Ouyang et
    al., IJCAI 2023 (arXiv 2207.14386). Like a hinge: what falls below rests, what rises above is
    trained on again, which keeps accuracy but not calibration.

    Args:
        threshold: fixes it by hand; `window` is then unused.
    """

    def __init__(self, window: int = 128, threshold: float | None = None) -> None:
        if threshold is not None and not np.isfinite(threshold):
            raise ConfigError(f"threshold is {threshold}; expected a finite loss")
        self.window = window
        self._history = History(window)
        self.fixed = threshold
        self._agreed: float | None = None

    @property
    def threshold(self) -> float:
        """The present threshold; minus infinity (keep all) before any loss has been seen."""
        if self.fixed is not None:
            return self.fixed
        if self._agreed is not None:
            return self._agreed
        values = self._history.values
        return float(values.mean()) if len(values) else float("-inf")

    def decide(self, offer: Offer) -> Verdict:
        """Keeps losses above the threshold.

        Raises:
            GateError: for an offer without losses.
        """
        loss = np.asarray(offer.need("loss", self))
        return Verdict(loss > self.threshold, threshold=self.threshold)

    def learn(self, offer: Offer) -> None:
        """Remembers losses of stage 1, whose mean is the threshold; later ones change nothing."""
        if offer.stage == 1 and offer.loss is not None:
            self._history.add(offer.loss)
            self._agreed = None

    def shared(self) -> list[float]:
        """Returns the threshold, on which ranks must agree."""
        return [self.threshold]

    def agree(self, values: list[float]) -> None:
        """Takes over the mean threshold of the ranks, unless one of them has no losses yet."""
        if values and np.isfinite(values[0]):  # else a rank has no losses yet
            self._agreed = values[0]

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"history": self._history.state_dict(), "agreed": self._agreed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._history.load_state_dict(state["history"])
        self._agreed = state["agreed"]


class CutOff(Gate):
    """Keep what has a size of at least `cut`, unweighted: the paper's use of its predictor.

    Inside a `PredictorGate` with naive Bayes the size is a probability and 0.5 the natural cut.
    """

    def __init__(self, cut: float = 0.5) -> None:
        self.cut = float(cut)

    def decide(self, offer: Offer) -> Verdict:
        """Keeps sizes (or chances) of `cut` or more.

        Raises:
            GateError: for an offer without sizes.
        """
        return Verdict(np.asarray(offer.need("size", self)) >= self.cut)


class Paper(Stages):
    """The authors' rule: stage 2 after a share of the stream; stage 3 once the predictor's mean
    log-loss over a window is low enough, or with the second pass; no way back.

    Args:
        warmup: share of the stream (of one pass in the paper).
        log_loss: the value to reach.
        window: number of scored examples over which it is taken.
    """

    def __init__(self, warmup: float = 0.05, log_loss: float = 0.6, window: int = 1024) -> None:
        self.warmup = check_share("warmup", warmup)
        if not log_loss > 0:
            raise ConfigError(f"log_loss is {log_loss}; expected a positive number of nats")
        self.log_loss, self.window = log_loss, window

    def evidence(self, view: View) -> list[float]:
        """Returns the share of the stream drawn; the predictor's mean log-loss, infinite before
        stage 2 has lasted a window; the passes completed; and whether any loss is known.

        Raises:
            ConfigError: if the stream's length is unknown.
        """
        if np.isnan(view.share):
            raise ConfigError(
                "the paper's warm-up is a share of the stream: give the sieve its length, `total`"
            )
        seen = view.stage == 2 and view.since >= self.window
        quality = view.window.log_loss() if seen else float("inf")
        return [view.share, quality, float(view.passes), float(len(view.window) > 0)]

    def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
        """Returns stage 2 after the warm-up, and stage 3 once the log-loss is low enough or a pass
        is over."""
        share, quality, passes, observed = numbers
        if stage == 1 and share >= self.warmup and observed >= 1:
            return Decision((2, f"{self.warmup:.0%} of the stream seen; threshold frozen"))
        if stage == 2 and quality <= self.log_loss:
            return Decision((3, f"predictor's log-loss {quality:.3f} <= {self.log_loss}"))
        if stage == 2 and passes >= 1:
            return Decision((3, "second pass"))
        return Decision()
