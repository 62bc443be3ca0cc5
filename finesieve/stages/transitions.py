"""Which stage the gates are in, and the transitions between stages, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from finesieve.costs.meter import Work
from finesieve.gates.protocol import State
from finesieve.stages.policy import OWN, GateLimits, Move, Shares, Stages, View
from finesieve.stages.window import Window

# Of what a token costs in smaller batches: half batches cost 1.5 where a launch takes as long as
# the compute of a whole one. Once they are whole, noise is not to change it back.
_WHOLE, _STAY = 1.5, 1.3


class Transitions:
    """Asks the policy once a batch; what it finds is averaged over ranks in between.

    Args:
        shares: what the policy wants the gates to keep, as of its last decision.
        whole: whether survivors come in batches as large as the loader's, since smaller ones would
            take nearly as long each: launches are more than half of a step.
        moves: one dict per transition, the start included: `stage`, `from_example` (drawn until
            then) and `reason`.
    """

    def __init__(
        self, stages: Stages, window: Window, total: int | None, limits: GateLimits
    ) -> None:
        self._stages, self._window, self._total, self._limits = stages, window, total, limits
        self.stage, self.shares = stages.first, OWN
        self.moves: list[dict[str, Any]] = [
            {"stage": self.stage, "from_example": 0, "reason": "start"}
        ]
        self.whole = False
        self._revealed_before = 0  # examples revealed before the last transition
        self._evidence: list[float] | None = None
        self._known = -1  # examples revealed when it was taken

    def evidence(
        self,
        drawn: int,
        passes: int,
        costs: tuple[float, float],
        work: Callable[[], Work],
        smaller: float = 1.0,
    ) -> list[float]:
        """Returns what the policy makes of the window and of where the stream is.

        If the policy says so, it stays as it is until more is revealed: taken anew it could move
        earlier.

        Args:
            drawn: examples so far.
            passes: completed passes over the data.
            costs: to score a token, and to train on one with gates closed, over plain training's.
            work: tells what was done so far; asked only if it is needed.
            smaller: what a token costs in batches of survivors of the usual size, over what it
                costs in the loader's; the last of the numbers.
        """
        known = self._window.revealed
        if self._evidence is None or self._known != known or not self._stages.cached:
            self._known = known
            share = drawn / self._total if self._total else float("nan")
            since = known - self._revealed_before
            self._evidence = self._stages.evidence(
                View(self.stage, share, since, passes, self._window, costs, work(), self._limits)
            )
        return [*self._evidence, smaller]

    def due(self, numbers: list[float]) -> Move | None:
        """Return the transition that is due by the evidence, averaged over ranks, or None."""
        *numbers, smaller = numbers
        self.whole = smaller > (_STAY if self.whole else _WHOLE)
        decision = self._stages.next(self.stage, numbers, self.shares)
        self.shares = decision.shares
        return decision.move

    def make(self, stage: int, reason: str, drawn: int) -> dict[str, Any]:
        """Enters a stage; returns its entry in `moves`."""
        self.stage = stage
        self._revealed_before = self._window.revealed
        self._evidence = None
        self.moves.append({"stage": stage, "from_example": drawn, "reason": reason})
        return self.moves[-1]

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "stage": self.stage,
            "whole": self.whole,
            "shares": [self.shares.opening, self.shares.score, self.shares.train],
            "moves": [dict(m) for m in self.moves],
            "revealed_before": self._revealed_before,
            "evidence": None if self._evidence is None else [float(x) for x in self._evidence],
            "known": self._known,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.shares = Shares(*state["shares"])
        self.whole = state["whole"]
        self.stage, self.moves = state["stage"], [dict(m) for m in state["moves"]]
        self._revealed_before = state["revealed_before"]
        self._evidence, self._known = state["evidence"], state["known"]
