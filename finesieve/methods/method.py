"""A method holds a gate for each place, and a policy of stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from finesieve.errors import ConfigError
from finesieve.gates.forward import PredictorGate
from finesieve.gates.protocol import Gate
from finesieve.gates.simple import Open, Random
from finesieve.stages.policy import Fixed, GateLimits, Stages


@dataclass(frozen=True)
class Method:
    """A forward gate, a backward gate (`Open` there means that nothing is scored), and stages.

    What a host or a command does depends on these fields and on the properties below, never on
    the name, which is for people.

    Args:
        opening: what is trained on in stage 1, unscored: everything, or a random share.
        batch_share: survivors' batches as a share of the loader's, where the sieve is given no
            size: smaller ones keep optimizer steps.
        batches: their size in some stages, where a method fixes it, e.g. {3: 1}.
        schedule_by: "stream", the learning rate goes by the share of the stream consumed; or
            "steps", by optimizer steps out of those that plain training takes. For the host to
            heed.
        reference: share of the training examples to hold out for a reference model, whose losses
            the backward gate's `refer` takes; 0 for none. For the host to heed.
        needs_ids: whether a gate remembers examples by their ids from one pass to the next, so that
            they must stay the same. For the host to heed.
    """

    name: str
    forward: Gate
    backward: Gate
    stages: Stages
    opening: Gate = field(default_factory=Open)
    batch_share: float = 1.0
    batches: Mapping[int, int] = field(default_factory=dict)
    schedule_by: Literal["stream", "steps"] = "stream"
    reference: float = 0.0
    needs_ids: bool = False

    def __post_init__(self) -> None:
        rule = self.forward.rule if isinstance(self.forward, PredictorGate) else self.forward
        dice = [getattr(gate, "_dice", None) for gate in (rule, self.backward)]
        if dice[0] is not None and dice[1] is not None and dice[0].origin == dice[1].origin:
            raise ConfigError(
                f"both gates of method {self.name!r} roll the same dice, so what they keep would "
                "not be independent and no longer unbiased: give them different seeds"
            )

    @property
    def filters(self) -> bool:
        """Whether a gate could ever leave anything out; False for plain training."""
        return not all(isinstance(g, Open) for g in (self.opening, self.forward, self.backward))

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model has to be trained before the run."""
        return self.reference > 0.0

    @property
    def subset(self) -> float | None:
        """The share of a uniformly random subset, if training on one is all that the method does,
        so that it can be drawn before the data are loaded; else None."""
        alone = isinstance(self.backward, Open) and isinstance(self.stages, Fixed)
        if alone and self.stages.first == 3 and isinstance(self.forward, Random):
            return self.forward.share
        return None

    @property
    def limits(self) -> GateLimits:
        """The settings of the three gates, which a policy needs to price them."""
        return GateLimits(self.opening.limits(), self.forward.limits(), self.backward.limits())

    @property
    def scores(self) -> bool:
        """Whether this method ever needs a scoring pass."""
        return not isinstance(self.backward, Open)

    @property
    def learns(self) -> bool:
        """Whether losses of the training step are of use: to its stages or to a gate."""
        gates = (self.opening, self.forward, self.backward)
        return self.stages.observes or any(type(g).learn is not Gate.learn for g in gates)
