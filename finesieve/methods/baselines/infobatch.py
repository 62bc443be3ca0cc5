"""InfoBatch leaves out easy examples by the losses that the training steps gave them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from finesieve.errors import ConfigError, check_share
from finesieve.gates.dice import Dice
from finesieve.gates.protocol import FloatArray, Gate, IntArray, Offer, State, Verdict
from finesieve.stages.policy import Decision, Shares, Stages, View


class Known:
    """Remembers the last known loss of each example, by its id.

    It grows with the examples, by 8 to 100 bytes each: for data that are met more than once.
    """

    def __init__(self) -> None:
        self._loss: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._loss)

    def mean(self) -> float:
        """Returns the mean of the losses that are known; NaN if none is."""
        return sum(self._loss.values()) / len(self._loss) if self._loss else float("nan")

    def of(self, ids: IntArray) -> FloatArray:
        """Returns the last known loss of each example, float32[n]; NaN where none is known."""
        nothing = float("nan")
        return np.asarray([self._loss.get(i, nothing) for i in ids.tolist()], dtype=np.float32)

    def add(self, ids: IntArray, loss: FloatArray) -> None:
        """Takes in the losses of these examples."""
        self._loss.update(zip(ids.tolist(), np.asarray(loss).tolist(), strict=True))

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "ids": torch.tensor(list(self._loss), dtype=torch.int64),
            "loss": torch.tensor(list(self._loss.values()), dtype=torch.float32),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._loss = dict(zip(state["ids"].tolist(), state["loss"].tolist(), strict=True))


class InfoBatch(Gate):
    """Leave out a share of the examples whose last loss was below the mean; the others of those
    weigh 1 / (1 - share).

    Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024
    (arXiv 2303.04947). A forward gate; the losses are those of the training steps, nothing is
    scored. What has no known loss is kept, so the first pass is plain training. Needs ids that
    stay the same from pass to pass (`Sieve(id_key=...)`). Departs from the paper in that the mean
    is that of the losses known when a pool is decided on, not when the pass began.
    """

    def __init__(self, share: float = 0.5, seed: int = 0) -> None:
        self.share = check_share("share", share)
        if self.share == 1.0:
            raise ConfigError("share is 1.0; InfoBatch must keep some of the easy examples")
        self._known = Known()
        self._dice = Dice(seed, "infobatch")

    def decide(self, offer: Offer) -> Verdict:
        """Keeps examples whose last known loss is below the mean with probability 1 - share, and
        all others."""
        with np.errstate(invalid="ignore"):
            easy = self._known.of(offer.ids) < self._known.mean()
        p = np.where(easy, 1.0 - self.share, 1.0).astype(np.float32)
        return Verdict(self._dice.uniform(offer.n) < p, p)

    def learn(self, offer: Offer) -> None:
        """Remembers the losses."""
        if offer.loss is not None:
            self._known.add(offer.ids, offer.loss)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"known": self._known.state_dict(), "dice": self._dice.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._known.load_state_dict(state["known"])
        self._dice.load_state_dict(state["dice"])


class Annealed(Stages):
    """The forward gate is closed from the first example on, and opens for good at a share of the
    stream: InfoBatch's last epochs on everything."""

    first = 3

    def __init__(self, until: float = 0.875) -> None:
        self.until = check_share("until", until)

    def evidence(self, view: View) -> list[float]:
        """Returns the share of the stream drawn.

        Raises:
            ConfigError: if it is unknown.
        """
        if np.isnan(view.share):
            raise ConfigError("InfoBatch anneals at a share of the stream: give the sieve `total`")
        return [view.share]

    def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
        """Returns stage 1, for good, once the share `until` has been drawn."""
        if stage == 3 and numbers[0] >= self.until:
            return Decision((1, f"{self.until:.1%} of the stream seen: the rest on everything"))
        return Decision()
