"""Marks on the way of a device, and the seconds between two of them, without waiting for it.

A GPU runs behind the program that feeds it, so the program's clock says nothing about it. A mark is
an event in the device's own queue: the device notes the time when it comes to it. On a CPU it is a
reading of the clock.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from finesieve.errors import FinesieveWarning

Clock = Callable[[], float]
Answer = TypeVar("Answer")


class Timer(Protocol):
    """What tells the time.

    Args:
        trusted: whether what lies between two marks is time that the work took there.
        ahead: whether the program runs ahead of the device.
    """

    trusted: bool
    ahead: bool

    def mark(self) -> Any:
        """Return a mark of where the work stands that was asked for so far."""
        ...

    def reached(self, mark: Any) -> bool:
        """Return whether the device has come to the mark. Never waits."""
        ...

    def between(self, first: Any, last: Any) -> float:
        """Return the seconds between two marks; waits for the last one. NaN if unknown."""
        ...


class ProgramTimer:
    """The program's own clock, for a device that does not run behind.

    Args:
        clock: seconds.
        trusted: False for a device that does run behind and has no events.
    """

    ahead = False

    def __init__(self, clock: Clock = time.perf_counter, trusted: bool = True) -> None:
        self.mark, self.trusted = clock, trusted

    def reached(self, mark: float) -> bool:
        """Returns True: nothing runs behind."""
        return True

    def between(self, first: float, last: float) -> float:
        """Returns the seconds between two marks."""
        return last - first


def recorded(device: torch.device) -> Any:
    """Return an event that was put into the device's queue, behind all that is there.

    Raises:
        Exception: of whatever kind, where the device has no events that tell the time.
    """
    module: Any = getattr(torch, device.type, None)
    made = getattr(module, "Event", None) or getattr(getattr(module, "event", None), "Event", None)
    event = made(enable_timing=True) if made else torch.Event(device, enable_timing=True)
    streams = getattr(module, "current_stream", None)
    event.record(*([streams(device)] if streams else []))
    return event


class DeviceTimer:
    """Events in the queues of devices that run behind the program.

    A model that is spread over several devices has an event in each, and what took longest counts.
    A device that is lost tells no more times: the timer says so once, and leaves it to the
    training step, which meets the same device, to fail or to go on.
    """

    ahead = True

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices, self.trusted = list(devices), True

    def mark(self) -> list[Any]:
        """Puts an event into the queue of each device."""
        found = self._asked(lambda: [recorded(device) for device in self._devices])
        return found or []

    def reached(self, mark: list[Any]) -> bool:
        """Returns whether every device has come to the mark; waits for none."""
        return self._asked(lambda: all(event.query() for event in mark)) is not False

    def between(self, first: list[Any], last: list[Any]) -> float:
        """Returns the seconds between two marks; waits for the last one. NaN if unknown."""

        def seconds() -> float:
            for event in last:
                if not event.query():
                    event.synchronize()
            pairs = zip(first, last, strict=True)
            return max(float(a.elapsed_time(b)) for a, b in pairs) / 1e3  # of milliseconds

        found = self._asked(seconds) if first and last else None
        return float("nan") if found is None else found

    def _asked(self, what: Callable[[], Answer]) -> Answer | None:
        """Return what the device answers, or None if it does not any more."""
        if not self.trusted:
            return None
        try:
            return what()
        except RuntimeError as error:
            self.trusted = False
            warnings.warn(
                f"{self._devices[0]} tells no more times ({error}): what was measured until now "
                "stays the price of scoring and of training",
                FinesieveWarning,
                stacklevel=2,
            )
            return None


def timer_on(devices: Sequence[torch.device]) -> Timer:
    """Return the timer for work on these devices: events where they run behind the program."""
    ahead = [device for device in devices if device.type not in ("cpu", "meta")]
    if not ahead:
        return ProgramTimer()
    try:
        for device in ahead:
            recorded(device).query()
    except Exception as error:  # of a backend that is not torch's own it may be of any kind
        warnings.warn(
            f"{ahead[0]} has no events that tell the time ({error}): costs are not measured, the "
            "usual ones are taken, and the books hold the program's own seconds. Give the sieve "
            "what scoring costs beside training, cost_ratio=, if you know it",
            FinesieveWarning,
            stacklevel=2,
        )
        return ProgramTimer(trusted=False)
    return DeviceTimer(ahead)


def devices_of(model: Any) -> list[torch.device]:
    """Return the devices that a model's parameters are on, in their order.

    A scorer without a module does not say where it computes. Then this is the current GPU, if the
    process has used one, and otherwise an empty list.
    """
    if not isinstance(model, nn.Module):
        begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        used = torch.cuda.is_available() and begun
        return [torch.device("cuda", torch.cuda.current_device())] if used else []
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))
