"""A device that runs behind the program, simulated: no GPU, no real seconds.

The program launches work and goes on; the device does one piece of work after another. Whoever
wants a result waits until the device has come there. All seconds are virtual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finesieve.costs import timer, watch

Call = tuple[int, int, int]  # examples, padded length, tokens


class Cost:
    """What a call takes: seconds of the program to launch it, seconds of the device for a token."""

    def __init__(self, launch: float, token: float) -> None:
        self.launch, self.token = launch, token


class Event:
    """As `torch.cuda.Event`: raises where the device has not come to both events."""

    def __init__(self, device: Device) -> None:
        self._device, self.at = device, max(device.now, device.busy)

    def query(self) -> bool:
        return self._device.now >= self.at

    def synchronize(self) -> None:
        self._device.wait(self.at)

    def elapsed_time(self, other: Event) -> float:
        if not (self.query() and other.query()):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return (other.at - self.at) * 1e3


class Device:
    """A queue of work, and the clock of the program that fills it.

    now: of the program. busy: when the device will have done all that it was given. waits: how
    often the program had to wait for it. slower: by how much everything is, now. calls: all that
    were made.

    Args:
        train, score: what a training step and a scoring forward take.
        first: seconds that the first call of each kind takes more: the program loads and compiles
            kernels and allocates memory. shape: and the first of each shape.
        noise: standard deviation of the logarithm of what a call takes.
    """

    def __init__(
        self,
        train: Cost,
        score: Cost,
        *,
        first: float = 0.0,
        shape: float = 0.0,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.costs = {"train": train, "score": score}
        self.now = self.busy = 0.0
        self.waits = 0
        self.slower = 1.0
        self.first, self.shape, self.noise = first, shape, noise
        self._dice = np.random.default_rng(seed)
        self._met: set[Any] = set()
        self.calls: dict[str, list[Call]] = {"train": [], "score": []}
        self.before = 0  # training steps that were made before the first pool was scored

    def call(self, kind: str, examples: int, width: int, tokens: int = 0) -> None:
        """The program calls the model on a padded batch of so many tokens."""
        self.calls[kind].append((examples, width, tokens))
        if kind == "score" and len(self.calls["score"]) == 2:  # the first is a trial
            self.before = len(self.calls["train"])
        cost, new = self.costs[kind], 0.0
        for what, extra in ((kind, self.first), ((kind, examples, width), self.shape)):
            if what not in self._met:
                self._met.add(what)
                new += extra
        noise = float(np.exp(self.noise * self._dice.standard_normal()))
        start = max(self.now, self.busy)
        self.now += cost.launch * noise * self.slower + new
        compute = cost.token * examples * width * noise * self.slower
        self.busy = max(start + compute, self.now)

    def wait(self, until: float | None = None) -> None:
        """The program waits for the device."""
        until = self.busy if until is None else until
        if self.now < until:
            self.now, self.waits = until, self.waits + 1

    def per_token(self, kind: str, calls: Sequence[Call]) -> float:
        """Seconds a token of such calls, measured from outside: on a device of the same costs,
        warm and without noise, up to when all is done."""
        other = Device(self.costs["train"], self.costs["score"])
        for examples, width, _ in calls:
            other.call(kind, examples, width)
        other.wait()
        return other.now / sum(tokens for *_, tokens in calls)

    # ---- in place of a GPU

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """From now on what models put out is as if on this device: fetching it waits for it.
        Whole numbers are the loader's, which are on the host, and a single one is what hosts
        compare at once on a CPU alone."""
        fetch: Callable[..., Any] = torch.Tensor.cpu

        def fetched(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_floating_point() and tensor.numel() > 1:
                self.wait()
            return fetch(tensor)

        patch.setattr(torch.Tensor, "cpu", fetched)
        patch.setattr(timer, "recorded", lambda _: Event(self))
        patch.setattr(watch, "timer_on", lambda _: timer.DeviceTimer([torch.device("cpu")]))

    def run(self, model: nn.Module) -> nn.Module:
        """The model's calls are this device's: with gradient a training step, else a scoring pass.
        Those of its parts are its own."""

        def called(_: nn.Module, given: Any, named: Any) -> None:
            mask = named["attention_mask"] if "attention_mask" in named else given[1]
            kind = "train" if torch.is_grad_enabled() else "score"
            self.call(kind, *mask.shape, int(mask.sum()))

        model.register_forward_pre_hook(called, with_kwargs=True)
        return model
