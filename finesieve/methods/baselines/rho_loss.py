"""RHO-loss trains on what a reference model has learned and the model has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finesieve.errors import check_share
from finesieve.gates.protocol import FloatArray, Gate, IntArray, Offer, State, Verdict
from finesieve.methods.baselines.infobatch import Known


class Reducible(Gate):
    """Keep the `share` of each pool with the highest reducible loss; unweighted.

    RHO-loss: Mindermann et al., "Prioritized Training on Points that are Learnable, Worth
    Learning, and Not Yet Learnt", ICML 2022 (arXiv 2206.07137). Reducible loss = loss minus
    irreducible loss, the loss of a reference model that was trained on held-out examples. Departs
    from the paper in choosing from pools instead of batches ten times as large as those trained on.

    irreducible: the reference model's loss by id; give it with `refer`. What it lacks counts as 0.
    """

    def __init__(self, share: float = 0.3) -> None:
        self.share = check_share("share", share)
        self._irreducible = Known()

    def refer(self, ids: IntArray, loss: FloatArray) -> None:
        """Takes in the reference model's losses float32[n], by ids int64[n]: once, before the first
        example."""
        self._irreducible.add(ids, loss)

    def decide(self, offer: Offer) -> Verdict:
        """Keeps `round(share * n)` of the pool's n examples, those of the highest reducible loss.

        Raises:
            GateError: for an offer without losses.
        """
        reducible = np.asarray(offer.need("loss", self)) - np.nan_to_num(
            self._irreducible.of(offer.ids)
        )
        keep = np.zeros(offer.n, dtype=np.bool_)
        keep[np.argsort(-reducible, kind="stable")[: round(self.share * offer.n)]] = True
        return Verdict(keep)

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"irreducible": self._irreducible.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._irreducible.load_state_dict(state["irreducible"])
