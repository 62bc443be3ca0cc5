"""A learning-rate schedule driven by the share of the stream consumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from finesieve.errors import ConfigError


class Schedule(Protocol):
    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class StreamSchedule:
    """Drive any step-based schedule by progress instead of by optimizer steps.

    A filter makes fewer steps than the schedule was sized for, and nobody knows how many. So the
    schedule is built for `steps` nominal steps (those of plain training), and each `step()` here
    advances it to `progress() * steps`: it is fully decayed when the stream ends.

    schedule: any torch or Hugging Face schedule, already built for `steps` steps.
    steps: how many those are, or a function that tells once the first is made.
    progress: gives the share of the stream consumed, 0 to 1: `lambda: sieve.progress`.
    """

    def __init__(
        self, schedule: Schedule, steps: int | Callable[[], int], progress: Callable[[], float]
    ) -> None:
        if isinstance(steps, int) and steps < 1:
            raise ConfigError(f"steps is {steps}; expected the nominal number of steps, 1 or more")
        self.schedule, self._steps, self._progress = schedule, steps, progress
        self._at = 0

    def step(self) -> None:
        """Call after each optimizer step."""
        # The progress after k of n equal steps may come out a hair below k / n.
        if not isinstance(self._steps, int):
            self._steps = max(1, self._steps())
        target = int(min(1.0, self._progress()) * self._steps + 1e-6)
        while self._at < target:
            self.schedule.step()
            self._at += 1

    def state_dict(self) -> dict[str, Any]:
        return {"at": self._at, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._at = state["at"]
        self.schedule.load_state_dict(state["schedule"])
