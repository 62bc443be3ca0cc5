"""A learning-rate schedule driven by the share of the stream consumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from finesieve.errors import ConfigError, FinesieveWarning

_FEWER = 0.95  # of plain training's steps, from where on a schedule by steps is not decayed in full
_LEFT = 0.1  # of the highest rate: above it a schedule is not decayed
_LEAST_STEPS = 20  # of which anything is told


class Schedule(Protocol):
    """What the sieve needs of a schedule of learning rates."""

    def step(self) -> None:
        """Makes one step of the schedule."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Takes up what `state_dict` returned."""
        ...


class StreamSchedule:
    """Drive any step-based schedule by progress instead of by optimizer steps.

    A filter makes fewer steps than the schedule was sized for, and nobody knows how many. So the
    schedule is built for `steps` nominal steps (those of plain training), and each `step()` here
    advances it to `progress() * steps`: it is fully decayed when the stream ends.

    Args:
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
        """Steps the schedule as far as the stream has come; to be called after each optimizer
        step."""
        # The progress after k of n equal steps may come out a hair below k / n.
        if not isinstance(self._steps, int):
            self._steps = max(1, self._steps())
        target = int(min(1.0, self._progress()) * self._steps + 1e-6)
        while self._at < target:
            self.schedule.step()
            self._at += 1

    def get_last_lr(self) -> list[float]:
        """Returns the rates of the last step, one for each group of parameters."""
        rates: list[float] = self.schedule.get_last_lr()  # type: ignore[attr-defined]
        return rates

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"at": self._at, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._at = state["at"]
        self.schedule.load_state_dict(state["schedule"])


class RateWatch:
    """Notices, in a loop of the user's own, a schedule that goes by optimizer steps.

    A loop that is filtered makes other than the number of steps that its schedule was built for.
    During the first pass this looks at the learning rate after each step of an optimizer, by
    PyTorch's own hook. It says nothing about a rate that nobody schedules, one that does not move
    towards the end of the pass, one that will be decayed by the end of the stream if it goes on as
    it goes, or where somebody asks for the sieve's progress.
    """

    def __init__(self) -> None:
        self._known = False
        self._rates: dict[int, list[tuple[float, ...]]] = {}  # by optimizer

    def known(self) -> None:
        """Watches no more: the rate follows the stream, or whoever runs the loop answers for it."""
        self._known = True
        self._rates.clear()

    @contextmanager
    def watching(self, wanted: bool) -> Iterator[None]:
        """Watches the optimizer's steps inside, if that is wanted and nothing is known of the rate
        yet."""
        if self._known or not wanted:
            yield
            return
        handle = register_optimizer_step_post_hook(self._look)
        try:
            yield
        finally:
            handle.remove()

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        groups = optimizer.param_groups
        # PyTorch's schedules leave a mark. To read a rate that is a tensor may wait for a GPU.
        if self._known or not all("initial_lr" in group for group in groups):
            return
        if not any(isinstance(group["lr"], Tensor) for group in groups):
            self._rates.setdefault(id(optimizer), []).append(
                tuple(float(group["lr"]) for group in groups)
            )

    def check(self, yielded: int, drawn: int, progress: float) -> None:
        """Warns, once, if a schedule is seen to go by steps and will not fit the stream.

        Args:
            yielded, drawn: batches of the pass that is over, trained on and as the loader has them.
            progress: share of the stream consumed.
        """
        if self._known:
            return
        found = [
            said
            for rates in self._rates.values()
            if (said := _misfit(rates, yielded / max(1, drawn), progress))
        ]
        self.known()
        if found:
            warnings.warn(
                f"a pass is over, and the learning rate's schedule goes by optimizer steps: "
                f"{found[0]}. Let it follow the share of the stream consumed: "
                "schedule = sieve.schedule(schedule)",
                FinesieveWarning,
                stacklevel=3,
            )


def _misfit(rates: list[tuple[float, ...]], steps: float, progress: float) -> str:
    """Returns what is wrong with the rates after each step of a pass, or an empty string.

    Args:
        steps: those that were made, over those of plain training.
    """
    peak = max(max(rate) for rate in rates)
    tail = rates[3 * len(rates) // 4 :]
    if len(rates) < _LEAST_STEPS or peak <= 0.0 or progress <= 0.0:
        return ""
    idle = sum(max(rate) == 0.0 for rate in tail)
    if max(rates[-1]) == 0.0 and idle > max(1, 0.05 * len(rates)):
        return f"it was 0 for at least the last {idle} of {len(rates)} steps"
    moved = sum(a != b for a, b in zip(tail[1:], tail[:-1], strict=True))
    if steps > _FEWER or moved <= len(tail) / 2:
        return ""
    now, before = max(rates[-1]), max(tail[0])
    end = now + (now - before) / (len(tail) - 1) * len(rates) * (1.0 - progress) / progress
    if end <= _LEFT * peak:
        return ""
    return (
        f"the pass had {steps:.0%} of plain training's steps, and at this pace the rate ends "
        f"at {min(1.0, end / peak):.0%} of its peak"
    )
