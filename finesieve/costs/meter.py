"""What decisions go by: tokens and seconds of each kind of work, and the costs that follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finesieve.costs.pace import Pace

# Before they are measured, over training an example with gates open, as it was on CPUs:
COST_RATIO = 0.3  # to score one
SURVIVOR = 1.2  # to train on one with gates closed, in smaller batches
_STEP = 1.1  # costs are followed in steps of a tenth
_KEPT = ("score", "train", "drawn", "drawn_tokens", "opened", "closed", "scored")


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens trained on while the gates were open, and closed (those that wait included); tokens
    scored; and how many the whole stream has, as it looks now (0 if its length is unknown)."""

    open: int = 0
    closed: int = 0
    scored: int = 0
    whole: float = 0.0

    def spent(self, score: float, train: float, of: float | None = None) -> float:
        """Return the share of plain training's cost that this work took.

        score, train: to score a token, and to train on one with gates closed, over plain
            training's. of: the tokens of plain training; those of the whole stream by default.
        """
        done = self.open + train * self.closed + score * self.scored
        return done / max(1.0, self.whole if of is None else of)


def followed(value: float, found: float | None, step: float) -> float:
    """Round the measured cost `found` to a power of `step`.

    Returns `value` unless the measured cost is further than one step from it, so that the noise of
    a clock does not change decisions; also where nothing is measured yet (None).
    """
    if found is None or abs(math.log(found / value)) <= math.log(step):
        return value
    return float(step ** round(math.log(found, step)))


class Meter:
    """Counts the work that decisions depend on, and measures what a token of it costs.

    The ledger counts for people; nothing that it holds is read by a decision, and nothing that is
    decided goes by anything but this meter and the window.

    score, train: costs to score a token, and to train on one while gates are closed, over plain
        training's: as measured, followed in steps. Decisions use these.
    ratio: of the two.
    drawn: examples drawn. drawn_tokens: their tokens.
    opened, closed: tokens handed out for training in batches that passed open gates, and closed.
    scored: tokens scored.
    paces: seconds of a token: trained on while the gates are `open` or `closed`, or to `score`.
    """

    def __init__(self) -> None:
        self.score, self.train = COST_RATIO, SURVIVOR
        self.drawn = self.drawn_tokens = 0
        self.opened = self.closed = self.scored = 0
        self.paces = {name: Pace() for name in ("open", "closed", "score")}

    @property
    def ratio(self) -> float:
        return self.score / self.train

    def draw(self, examples: int, tokens: int) -> None:
        """Count what was taken from the loader."""
        self.drawn += examples
        self.drawn_tokens += tokens

    def hand_out(self, tokens: int, opened: bool) -> None:
        """Count a batch that goes to the training step; opened: it passed open gates."""
        if opened:
            self.opened += tokens
        else:
            self.closed += tokens

    def relative(self, name: str) -> float | None:
        """Return what a token costs as measured, over plain training's; None if unknown.

        name: "closed" to train on one while gates are closed, or "score". Where gates were closed
            from the start, survivors stand in for plain training.
        """
        plain = self.paces["open"].per_token or self.paces["closed"].per_token
        found = self.paces[name].per_token
        return None if found is None or plain is None else found / plain

    def follow(self) -> None:
        """Let `score` and `train` follow what was measured so far."""
        self.score = followed(self.score, self.relative("score"), _STEP)
        self.train = followed(self.train, self.relative("closed"), _STEP)

    def work(self, total: int | None, opened: int = 0, closed: int = 0) -> Work:
        """Return the work done so far.

        total: examples in the whole stream, if it is known. opened, closed: tokens that passed the
            gates and wait to be handed out.
        """
        whole = self.drawn_tokens / max(1, self.drawn) * (total or 0)
        return Work(self.opened + opened, self.closed + closed, self.scored, whole)

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _KEPT},
            "paces": {name: pace.state_dict() for name, pace in self.paces.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state[name])
        for name, pace in self.paces.items():
            pace.load_state_dict(state["paces"][name])
