"""Features that a model gave examples while it was trained, before it was trained on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finesieve.gates.protocol import IntArray
from finesieve.scoring.last_layer import LastLayer
from finesieve.scoring.scorers import Classification

# Of the stream, by a model too poor to go by: these rows are looked at again.
EARLY, THOROUGH = 0.1, 0.2
EARLY_MOST = 400  # rows, unless the look is thorough
# By how much wrong labels may be rarer or more frequent among the rows that the model is surest of
# than among all (see `judge`): its features come from many moments of the training. Chosen on
# five sets, in which that was 13 % beside chance.
UNEVEN = 0.15
_TOGETHER = 64  # batches that are read from a device at once


class Visits:
    """Keeps what the last layer of a model was given for each example, the newest time.

    In an epoch an example is met once to be scored and maybe once to be trained on, each time by
    parameters that have not seen it. So a head fitted to other examples' features judges it out of
    sample, as after cross-validation of the whole model, and for nothing.

    Args:
        many: examples there are.
        thorough: whether to look again at more of those that were met early, and at all that were
            not met at all.

    Attributes:
        features: float32[many, d], None before the first are known.
        met: bool[many], those whose features are good enough.
        passed: bool[many], those that training passed over: neither met nor early.
        missed: float64[many], the chance of each not to be run through the model, which follows
            from the gates' probabilities; 1
            until an event of the sieve tells of it.
        model: which is trained.
        tokens: of each example, as the model is given them, if they are known.
    """

    def __init__(self, many: int, thorough: bool = False) -> None:
        self.features: npt.NDArray[np.float32] | None = None
        self.met = np.zeros(many, dtype=np.bool_)
        self.passed = np.zeros(many, dtype=np.bool_)
        self.missed = np.ones(many)
        self.thorough = thorough
        self.tokens: Sequence[IntArray] | None = None
        self.model: Any = None
        self._given: Tensor | None = None
        self._new: list[tuple[IntArray, Tensor]] = []
        self._hook: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes in an event of the sieve: with which probability the gates let examples pass."""
        if event["event"] == "open":
            self.missed[event["ids"]] = 0.0
        elif event["event"] == "pool":
            # What is not a number is an open gate's.
            self.missed[event["ids"]] *= np.nan_to_num(1.0 - event["forward_probability"])

    def weights(self) -> npt.NDArray[np.float64]:
        """Returns how many rows each stands for when they are counted, float64[many].

        That is one over its chance to be met (Horvitz & Thompson 1952), and 1 for the early ones,
        which are all looked at. Those that were passed over are stood for by others: 0. The sum is
        the number of rows but for chance.
        """
        out = np.zeros(len(self.met))
        # One that was met though nothing was told of it had no gate in its way.
        out[self.met] = 1.0 / np.where(self.missed < 1.0, 1.0 - self.missed, 1.0)[self.met]
        out[~self.met & ~self.passed] = 1.0
        return out

    def scorer(self, model: nn.Module, **settings: Any) -> Classification:
        """Returns the scoring pass of a classifier, which is followed from now on."""
        self.model = model
        return _Followed(self, model, **settings)

    def follow(self, found: LastLayer | None) -> None:
        """Takes note of what this layer is given, from now on."""
        if found is None or self._hook is not None:
            return

        def keep(layer: nn.Module, given: tuple[Any, ...]) -> None:
            self._given = given[0].detach() if given[0].ndim == 2 else None

        self._hook = found.layer.register_forward_pre_hook(keep)

    def note(self, ids: IntArray) -> None:
        """Says which examples the last forward was about, the first len(ids) of its rows."""
        if self._given is None:
            return
        self._new.append((ids, self._given[: len(ids)].clone()))
        self._given = None
        if len(self._new) >= _TOGETHER:
            self._read()

    def _read(self) -> None:
        if not self._new:
            return
        ids = np.concatenate([ids for ids, _ in self._new])
        found = torch.cat([given.float() for _, given in self._new]).cpu().numpy()
        if self.features is None:
            self.features = np.zeros((len(self.met), found.shape[1]), dtype=np.float32)
        self.features[ids] = found  # of several the last one stays
        self.met[ids] = True
        self._new = []

    def end(self, order: IntArray) -> None:
        """Forgets the rows that were met too early, and takes note of no more.

        Where training never asked for the last layer, because a run is so short that no head was
        fitted and no gate closed, nothing is known of any row, and all are looked at.

        Args:
            order: int64[n], the examples as they were drawn.
        """
        self._read()
        many = min(int(EARLY * len(order)), EARLY_MOST)
        early = order[: int(THOROUGH * len(order)) if self.thorough else many]
        self.passed = ~self.met if self.met.any() else np.zeros_like(self.met)
        self.met[early] = self.passed[early] = False
        if self._hook is not None:
            self._hook.remove()


class _Followed(Classification):
    """The scoring pass, whose examples are taken note of."""

    def __init__(self, visits: Visits, model: nn.Module, **settings: Any) -> None:
        super().__init__(model, **settings)
        self._visits = visits

    def last_layer(self, batch: Any) -> LastLayer | None:
        found = super().last_layer(batch)
        self._visits.follow(found)
        return found

    def note(self, ids: IntArray) -> None:
        self._visits.note(ids)
