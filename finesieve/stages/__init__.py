"""Stages say when the gates close and open again, and what each of them costs."""

from typing import TYPE_CHECKING, Any

from finesieve.costs.meter import Work
from finesieve.stages.automatic import Automatic
from finesieve.stages.policy import (
    Decision,
    Fixed,
    GateLimits,
    Move,
    Shares,
    Stages,
    View,
)

__all__ = [
    "Automatic",
    "Decision",
    "Fixed",
    "GateLimits",
    "Move",
    "Shares",
    "Stages",
    "View",
    "Work",
]

if not TYPE_CHECKING:  # type checkers shall go on complaining of names that are not there

    def __getattr__(name: str) -> Any:
        """The name that is one of the baselines now, for one release."""
        if name == "Paper":
            from finesieve._deprecated import moved_name

            return moved_name("finesieve.stages.Paper", "finesieve.methods.baselines.paper.Paper")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
