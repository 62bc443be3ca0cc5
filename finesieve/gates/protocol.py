"""The one concept: a gate decides which examples go on, and with which probability.

A gate's place decides what it saves: the *forward gate* stands before the scoring pass, the
*backward gate* after it. Both speak this protocol. Deciding never learns; `learn` is the only
method that changes what later decisions look like.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.costs.meter import COST_RATIO, SURVIVOR
from finesieve.errors import GateError, StateError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Features:
    """What the predictor may look at, for n examples.

    Args:
        tokens: int64[n, m], non-negative ids, -1 where an example has fewer than m.
        cross: int64[n], the id that every token is crossed with: the class label, or 0.
        targets: float32[n], how many targets each has, where it is more than one: tokens to be
            labelled or told. None else.
    """

    tokens: IntArray
    cross: IntArray
    targets: FloatArray | None = None

    def take(self, index: IntArray) -> Features:
        """Returns the features of the chosen examples, by their places int64[m]."""
        targets = None if self.targets is None else self.targets[index]
        return Features(self.tokens[index], self.cross[index], targets)


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a gate may look at: n examples of one pool. `None` = not known at this place.

    Args:
        ids: int64[n].
        stage: 1, 2 or 3, the stage in which the sieve is.
        drawn: how many examples of the stream this offer stands for (n at the forward gate; at the
            backward gate the size of the pool that the scored ones came from). Shares refer to it.
        share: in (0, 1], the share of `drawn` that the policy wants kept in expectation, whatever
            share the gate was made with; None: what the gate itself keeps. Gates that know no
            shares need not heed it.
        features: what the forward gate's predictor sees.
        probability: float32[n] in (0, 1], with which each example got here.
        predicted: float32[n], the size that the predictor expected before it learned.
        loss: float32[n], in the loss's own unit.
        size: float32[n], the size of the gradient (see `finesieve.scores`).
        keep: bool[n], the backward gate's verdict: known only to a forward gate that learns.
        cost_ratio: seconds to score an example over seconds to train on it.
    """

    ids: IntArray
    stage: int = 2
    drawn: int | None = None
    features: Features | None = None
    probability: FloatArray | None = None
    predicted: FloatArray | None = None
    loss: FloatArray | None = None
    size: FloatArray | None = None
    keep: BoolArray | None = None
    cost_ratio: float = COST_RATIO / SURVIVOR
    share: float | None = None

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.ids)

    def take(self, index: IntArray) -> Offer:
        """Returns an offer of the chosen examples, by their places int64[m]; `drawn` stays, for it
        speaks of the pool."""
        return Offer(
            self.ids[index],
            self.stage,
            self.drawn,
            features=None if self.features is None else self.features.take(index),
            probability=None if self.probability is None else self.probability[index],
            predicted=None if self.predicted is None else self.predicted[index],
            loss=None if self.loss is None else self.loss[index],
            size=None if self.size is None else self.size[index],
            keep=None if self.keep is None else self.keep[index],
            cost_ratio=self.cost_ratio,
            share=self.share,
        )

    def need(self, field: str, gate: object) -> Any:
        """Returns the value of a field.

        Raises:
            GateError: if it is None, with the gate's name and the likely cause.
        """
        value = getattr(self, field)
        if value is None:
            cause = (
                "it stands before the scoring pass; put it behind, or inside a PredictorGate"
                if field in ("loss", "size")
                else "give the sieve a `features` function"
            )
            raise GateError(
                f"{type(gate).__name__} needs `{field}`, which this offer lacks: probably {cause}"
            )
        return value


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's answer on an offer of n examples.

    Args:
        keep: bool[n].
        probability: float32[n] in [0, 1], the chance that each example had to be kept; a kept
            example then weighs 1 / probability (Horvitz & Thompson 1952) and the gradient stays
            unbiased. `None` from a gate that does not weigh: kept examples weigh 1.
        audited: bool[n], kept by the audit, whatever the predictor said.
        threshold: the size (or loss) from which on everything was kept, for the records.
    """

    keep: BoolArray
    probability: FloatArray | None = None
    audited: BoolArray | None = None
    threshold: float | None = None

    def check(self, n: int, gate: object) -> Verdict:
        """Returns the verdict itself.

        Raises:
            GateError: unless it is a verdict on n examples, with the gate's name.
        """
        name = type(gate).__name__
        if self.keep.shape != (n,) or self.keep.dtype != np.bool_:
            raise GateError(
                f"{name}.decide returned keep of shape {self.keep.shape} and dtype "
                f"{self.keep.dtype}; expected bool[{n}], one value per example offered"
            )
        p = self.probability
        if p is not None:
            if p.shape != (n,):
                raise GateError(
                    f"{name}.decide returned probability {p.shape}; expected float32[{n}]"
                )
            chosen = p[self.keep]
            if len(chosen) and not (chosen.min() > 0 and chosen.max() <= 1.0):
                raise GateError(f"{name} kept an example with a probability outside (0, 1]")
        return self


@dataclass(frozen=True, slots=True)
class Limits:
    """What a gate keeps to by its own settings, for a policy that prices what the gate would do.

    Args:
        share: expected share that it keeps where the offer asks for none; None: it has none, and
            goes by a rule of its own, such as the balance of variance and cost.
        least: share kept at least where it has none.
        floor: the least probability.
        audit: share that passes whatever is predicted.
        cost_ratio: what the gate was told (see `Offer`); None: it goes by what is measured.
    """

    share: float | None = None
    least: float = 0.0
    floor: float = 0.0
    audit: float = 0.0
    cost_ratio: float | None = None


class Gate(ABC):
    """Decides which of the offered examples go on: the protocol of all gates.

    A gate is abstract or final: no gate subclasses another gate.
    """

    @abstractmethod
    def decide(self, offer: Offer) -> Verdict:
        """Returns which of the offered examples go on.

        It may roll dice and must not learn.
        """

    def learn(self, offer: Offer) -> None:  # noqa: B027 - a gate without memory has nothing to do
        """Takes in losses or sizes that were revealed: nothing else changes later decisions."""

    def predict(self, offer: Offer) -> FloatArray | None:
        """Returns the sizes that this gate expects, float32[n], or None if it holds no
        predictor."""
        return None

    def look_ahead(self, offers: Sequence[Offer]) -> None:  # noqa: B027
        """Prepares for offers that will be predicted and learned one after another: what does not
        depend on what is learned in between can be done for all of them at once."""

    def limits(self) -> Limits:
        """Returns the settings that policies ask for. They stay the same during a run."""
        return Limits()

    def shared(self) -> list[float]:
        """Returns numbers on which ranks must agree; `agree` is given their mean over ranks."""
        return []

    def agree(self, values: list[float]) -> None:  # noqa: B027
        """Takes over the mean over ranks of what `shared` gave."""

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up: tensors, numbers and strings only, so that it
        loads with `weights_only=True`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned.

        Raises:
            StateError: by a gate that has no state of its own, if it is given one.
        """
        if state:
            raise StateError(
                f"state with {sorted(state)} offered to {type(self).__name__}, which has none: "
                "it was probably saved by another kind of gate"
            )
