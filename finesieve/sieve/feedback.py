"""What is learned from losses: of the scoring pass, and those that the user's step returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows
from finesieve.costs.ledger import Ledger
from finesieve.errors import ConfigError, FinesieveWarning, ScoreError
from finesieve.gates.features import FeatureFunction
from finesieve.gates.protocol import BoolArray, FloatArray, Offer, State
from finesieve.methods.method import Method
from finesieve.scoring.protocol import Scorer
from finesieve.sieve.collapse import CollapseWatch
from finesieve.sieve.pool import Sifted
from finesieve.sieve.record import Record
from finesieve.sieve.returns import Returns
from finesieve.stages.window import Window

_TOLD_BY_NOW = 1024  # examples of which no loop holds all without having trained on any
_UNDER_WAY = 16384  # examples handed out before no loss coming back is an error


class Learning:
    """Teaches the gates and the predictor, and keeps the window that stages are priced by.

    Args:
        features: None where nobody looks at them.
        read_ahead: as the sieve has it.
        record: of all losses.
        tell: for events.
    """

    def __init__(
        self,
        method: Method,
        scorer: Scorer | None,
        codec: Codec,
        features: FeatureFunction | None,
        read_ahead: int,
        ledger: Ledger,
        record: Record,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._method, self._codec, self._record = method, codec, record
        # A plain function as scorer does not know it.
        self._size_of_loss = getattr(scorer, "size_of_loss", lambda loss: np.maximum(loss, 0))
        self._features, self._ledger, self._tell = features, ledger, tell
        self._told_by = max(_TOLD_BY_NOW, 1 + read_ahead)
        self._returns = Returns(max(_UNDER_WAY, read_ahead))
        self._collapse = CollapseWatch()
        self._told = 0  # batches of losses since it was asked last
        self.window = Window(method.stages.window)

    def _learn(self, offer: Offer, audited: BoolArray | None = None) -> None:
        """Lets everything learn from revealed losses, after it was judged on them."""
        if offer.n == 0:
            return
        self.window.add(offer, audited)
        self._method.forward.learn(offer)
        self._method.backward.learn(offer)

    # ---- from the scoring pass

    def scored(self, found: Sifted) -> None:
        """Learns from what the scoring pass revealed of a pool."""
        known = found.scored
        if known.loss is not None:
            self._record.add(known.ids, known.loss, known.size, trained=False)
        self._learn(replace(known, keep=found.keep), found.audited)
        if found.p is not None or found.scored.loss is None:
            return
        # Gates without weights can bring about collapse: watched on all, or on the audited.
        if found.offer.stage == 2:
            self._collapse.feed(found.scored.loss)
        elif found.audited is not None:
            self._collapse.feed(found.scored.loss[found.audited])

    def closing(self) -> None:
        """Takes the losses so far as what later ones are held against, for gates close now.

        Raises:
            ConfigError: if losses were wanted and none ever came back.
        """
        if self._untold():
            raise ConfigError(
                f"gates close now, {self._ledger.examples.yielded} examples were handed out and no "
                "loss came back, so survivors would be trained on without their weights: call "
                "sieve.loss(losses, batch) in the training step, with the batch as it came"
            )
        self._collapse.closed(self.window.mean_loss(last=1024))

    # ---- from the user's step

    def give(self, ids: Tensor, losses: Tensor, sizes: Tensor | None) -> None:
        """Takes in losses that the user's step computed; they stay where they are until they are
        absorbed."""
        self._returns.give(ids, losses, sizes)
        self._told += 1

    def told(self) -> int | None:
        """Return how many batches' losses came back since this was asked last; None if none ever
        did."""
        count, self._told = self._told, 0
        return count if self._returns.ever else None

    def expect(
        self, rows: Rows, stage: int, held: int, probability: FloatArray | None = None
    ) -> None:
        """Notes that rows go to the user's step unscored: their training losses will teach.

        Args:
            rows: those.
            stage: the present one.
            held: examples decided on before that were not handed out yet.
            probability: float32[n], of each to have got there; 1 by default.
        """
        if not self._method.learns or len(rows) == 0:
            return
        features = self._features(self._codec.bare(rows)) if self._features else None
        if self._returns.crowded(len(rows), held):
            self.absorb(stage)
        self._returns.expect(rows.ids, features, probability, held)

    def absorb(self, stage: int, at_least: int = 1) -> None:
        """Take in the losses that came back, if they are of so many batches.

        Of several batches those that a device may still be working on come with the next ones.
        """
        if self._returns.waiting < at_least and at_least > 1:
            return
        found = list(self._returns.collect(stage, wait=at_least == 1))
        self._method.forward.look_ahead([offer for *_, offer in found if offer is not None])
        for ids, losses, offer in found:
            if offer is None or offer.n < len(ids):
                self.bad(_bad(losses))
            size = None if offer is None else offer.size
            self._record.add(ids, losses, size, trained=True)
            self._tell({"event": "trained", "ids": ids, "loss": losses, "size": size})
            if offer is None:
                continue
            assert offer.loss is not None
            if size is None:
                size = self._size_of_loss(offer.loss)
            offer = Offer(  # `replace` takes three times as long, and this is done for every batch
                offer.ids,
                offer.stage,
                features=offer.features,
                probability=offer.probability,
                predicted=self._method.forward.predict(offer),
                loss=offer.loss,
                size=size,
            )
            if bad := _bad(size):
                self.bad(bad)
                offer = offer.take(np.flatnonzero(np.isfinite(size)))
            self._learn(offer)

    def _untold(self) -> bool:
        """Returns whether losses are wanted, and none came back when any loop had trained on
        some."""
        used = self._method.scores or self._method.learns
        late = self._ledger.examples.yielded >= self._told_by
        return used and not self._returns.ever and late

    def check_told(self) -> None:
        """Warns, at the end of a pass, where losses were wanted and none ever came back."""
        if self._untold():
            warnings.warn(
                "a pass is over and no loss came back: call sieve.loss(losses, batch) in the "
                "training step. Without it gates never close by themselves, and survivors are "
                "trained on without their weights",
                FinesieveWarning,
                stacklevel=3,
            )

    # ---- what is no number

    def bad(self, count: int) -> None:
        """Counts losses that are not finite.

        Raises:
            ScoreError: when they are more than an accident.
        """
        if count == 0:
            return
        examples = self._ledger.examples
        examples.bad += count
        self._tell({"event": "bad", "count": count, "total": examples.bad})
        if examples.bad > max(32, 0.01 * examples.drawn):
            raise ScoreError(
                f"{examples.bad} of {examples.drawn} examples had a loss that is NaN or infinite "
                "(the run stops at more than 1 %, 32 at least): the learning rate is probably "
                "too high, or the precision too low; or labels that lie on a GPU are none of the "
                "model's classes"
            )

    # ---- state

    def _parts(self) -> dict[str, Any]:
        return {"window": self.window, "collapse": self._collapse, "returns": self._returns}

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


def _bad(values: FloatArray) -> int:
    """Returns how many are not finite."""
    finite = np.isfinite(values)
    return 0 if finite.all() else len(values) - int(np.count_nonzero(finite))
