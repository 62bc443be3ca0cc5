"""When the gates close and open again: small state machines over what the window says.

Stage 1: both gates open. Stage 2: the backward gate is closed. Stage 3: both are.
A policy turns what it knows into a few numbers (`evidence`); the sieve averages them over ranks;
`next` decides on the averages alone, so that all ranks move together. It returns the stage to move
to and the share that each gate shall keep; the sieve keeps both and shows each gate its share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finesieve.costs.meter import Work
from finesieve.errors import ConfigError, check_share
from finesieve.gates.protocol import Limits
from finesieve.stages.window import Window


@dataclass(frozen=True, slots=True)
class GateLimits:
    """The settings of a method's three gates. The gates own them; policies ask here."""

    opening: Limits
    forward: Limits
    backward: Limits


@dataclass(frozen=True, slots=True)
class View:
    """What a policy may look at.

    Args:
        stage: 1, 2 or 3.
        share: of the stream drawn, 0 to 1 (NaN if the total is unknown).
        since: examples revealed since the last move.
        passes: completed passes over the data.
        window: the last examples whose losses are known.
        costs: to score a token, and to train on one with gates closed, over plain training's, as
            measured.
        work: what was done so far.
        limits: of the method's gates.
    """

    stage: int
    share: float
    since: int
    passes: int
    window: Window
    costs: tuple[float, float]
    work: Work
    limits: GateLimits


Move = tuple[int, str]  # the new stage, and the reason


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of the pool drawn that each gate shall keep in expectation, in (0, 1].

    None stands for what the gate itself keeps.

    Args:
        opening: trained on in stage 1.
        score: let through to the scoring pass.
        train: trained on.

    Raises:
        ConfigError: for what is no share.
    """

    opening: float | None = None
    score: float | None = None
    train: float | None = None

    def __post_init__(self) -> None:
        for name in ("opening", "score", "train"):
            value = getattr(self, name)
            if value is not None:
                check_share(f"the policy's share `{name}`", value)


OWN = Shares()  # all gates keep what they keep by themselves


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy decides once a batch.

    Args:
        move: the transition that is due, None to stay.
        shares: those that the gates keep from now on.
    """

    move: Move | None = None
    shares: Shares = OWN


class Stages(ABC):
    """Says when the gates close and open again: a policy.

    A policy is abstract or final.

    Attributes:
        observes: whether losses of the training forwards are wanted in stage 1.
        window: examples that the window remembers.
        first: the stage in which a run begins.
        cached: whether the evidence stays the same until more examples are revealed.
    """

    observes = True  # whether losses of the training forwards are wanted in stage 1
    window = 2048  # examples that the window remembers
    first = 1  # the stage in which a run begins
    cached = False  # whether the evidence stays the same until more examples are revealed

    @abstractmethod
    def evidence(self, view: View) -> list[float]:
        """Returns what `next` decides by: always as many values, which are averaged over ranks
        before.

        Raises:
            ConfigError: if the stream's length is needed and unknown.
        """

    @abstractmethod
    def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
        """Returns what is to be done: the stage to move to, and the shares of the gates.

        Args:
            stage: the present one.
            numbers: what `evidence` gave, averaged over ranks.
            shares: the present ones, those of the last decision. Nothing else may count, and
                nothing is changed: the sieve keeps what was decided, and saves it.
        """


class Fixed(Stages):
    """By hand: the share of the stream at which each stage begins.

    Args:
        starts: e.g. {2: 0.05, 3: 0.2}; {3: 0.0} closes both gates from the first example on; {}
            leaves them open. Stages may be given as text, as they come back from JSON.
    """

    observes = False

    def __init__(self, starts: Mapping[int, float] | Mapping[str, float]) -> None:
        given: dict[int, float] = {}
        for key, share in starts.items():
            if str(key) not in ("2", "3"):
                raise ConfigError(f"a start for stage {key}; expected stages 2 and 3")
            given[int(key)] = check_share(f"the start of stage {key}", share, zero=True)
        if given.get(2, 0.0) > given.get(3, 1.0):
            raise ConfigError(f"stage 3 starts before stage 2: {given}")
        self.starts = dict(sorted(given.items()))
        self.first = max((stage for stage, share in given.items() if share == 0), default=1)
        self.observes = any(share > 0 for share in given.values())

    def evidence(self, view: View) -> list[float]:
        """Returns the share of the stream drawn.

        Raises:
            ConfigError: if it is unknown and a stage starts by it.
        """
        if np.isnan(view.share) and any(share > 0 for share in self.starts.values()):
            raise ConfigError(
                "stages that start at a share of the stream need its length: give the sieve "
                "`total`, the number of examples in all passes together"
            )
        return [view.share]

    def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
        """Returns the last stage whose start has come, if it is not the present one."""
        for target in (3, 2):
            start = self.starts.get(target)
            if start is not None and target > stage and numbers[0] >= start:
                return Decision((target, f"{start:.0%} of the stream, as set"))
        return Decision()
