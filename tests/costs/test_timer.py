"""Marks on the way of a device: nothing waits, and what cannot be timed is told."""

from __future__ import annotations

import time
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import finesieve as fs
from finesieve.costs import timer
from finesieve.costs.pace import Pace
from finesieve.costs.timer import DeviceTimer, ProgramTimer, devices_of, timer_on
from finesieve.costs.watch import Step, Watch
from tests.costs.simulated import Cost, Device

CPU = torch.device("cpu")


def ten(on: Watch, device: Device, pace: Pace) -> None:
    for _ in range(10):
        on.turn("train")
        device.call("train", 8, 10)
        on.turn("decide", Step(pace, 80, 80))


def test_spans_are_read_when_the_device_has_come_there(monkeypatch: pytest.MonkeyPatch) -> None:
    device, pace = Device(Cost(0.001, 0.01), Cost(0.0, 0.0)), Pace()
    device.install(monkeypatch)
    on = Watch(("train", "decide"), None, lambda: [CPU])
    on.locate()
    ten(on, device, pace)
    on.read()
    assert pace.count == 0  # the program is ahead by ten steps of 0.8 s
    device.now += 4.5
    on.read()
    assert (pace.count, device.waits) == (5, 0)
    assert pace.per_token == pytest.approx(0.01)
    on.read(wait=True)
    assert (pace.count, device.waits) == (10, 5)
    assert on.seconds == pytest.approx({"train": 8.0, "decide": 0.0})


def test_of_what_a_device_stood_still_the_wait_for_data_has_its_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(Cost(0.5, 0.01), Cost(0.0, 0.0))
    device.install(monkeypatch)
    monkeypatch.setattr("finesieve.costs.watch.time.perf_counter", lambda: device.now)
    marks = 0

    def recorded(_: Any) -> Any:
        nonlocal marks
        marks += 1
        return simulated_event(device)

    monkeypatch.setattr(timer, "recorded", recorded)
    on = Watch(("train", "decide", "data"), None, lambda: [CPU])
    on.locate()
    on.turn("decide")
    for wait in (3.0, 0.2):  # longer than the step before it takes, and hidden behind it
        with on.spending("data"):
            device.now += wait
        device.now += 0.1
        on.turn("train")
        device.call("train", 8, 10)  # 0.8 s of the device, launched in 0.5
        on.turn("decide")
    on.turn(None)
    on.read(wait=True)
    assert on.seconds == pytest.approx({"train": 1.6, "decide": 0.1, "data": 3.0})
    assert marks == 6  # none for the data


def test_a_pause_is_nobodys_and_the_step_before_it_is_whole() -> None:
    now, pace = [0.0], Pace()
    on = Watch(("train", "data"), ProgramTimer(lambda: now[0]))
    for _ in range(6):
        on.turn("train")
        now[0] += 1.0
        on.pause()
        now[0] += 100.0  # an evaluation
        on.pause()
        on.turn("data", Step(pace, 10, 10))
        now[0] += 0.5
    with on.spending("train"):
        now[0] += 2.0
    on.turn(None)
    now[0] += 7.0
    on.read()
    assert on.seconds == {"train": 8.0, "data": 3.0}
    assert pace.per_token == pytest.approx(0.1)


def test_batches_that_are_read_ahead_are_timed_with_the_step_that_trains_on_them() -> None:
    now, pace = [0.0], Pace()
    on = Watch(("train", "data"), ProgramTimer(lambda: now[0]))
    for _ in range(8):
        for trained in (0, 0, 3):
            tokens = 10 * max(1, trained)
            on.turn("train")
            now[0] += 6.0 * (trained > 0)
            on.turn("data", Step(pace, tokens, tokens, batches=trained))
    on.read()
    assert pace.count == 24
    assert pace.per_token == pytest.approx(0.2)


def test_a_clock_that_is_set_back_says_nothing() -> None:
    now, pace = [0.0], Pace()
    on = Watch(("train", "data"), ProgramTimer(lambda: now[0]))
    for i in range(12):
        on.turn("train")
        now[0] += -3600.0 if i == 8 else 1.0
        on.turn("data", Step(pace, 10, 10))
    on.read()
    assert on.seconds == {"train": 11.0, "data": 0.0}
    assert pace.per_token == pytest.approx(0.1)


def test_a_device_without_events_leaves_the_usual_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(device: torch.device) -> Any:
        raise NotImplementedError("no events here")

    monkeypatch.setattr(timer, "recorded", none)
    other = torch.device("xla", 0)
    with pytest.warns(fs.FinesieveWarning, match="xla:0 has no events .*no events here.*cost_rat"):
        found = timer_on([other])
    pace = Pace()
    on = Watch(("train", "data"), found)
    for _ in range(12):
        on.turn("train")
        on.turn("data", Step(pace, 10, 10))
    on.read(wait=True)
    assert pace.count == 0
    assert on.seconds["train"] > 0.0


def test_no_machine_here_has_events_of_a_device_that_it_does_not_have() -> None:
    with pytest.warns(fs.FinesieveWarning, match="has no events that tell the time"):
        assert not timer_on([torch.device("xla", 0)]).trusted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(timer_on([CPU]), ProgramTimer)
        assert isinstance(timer_on([]), ProgramTimer)


def test_a_device_that_is_lost_is_told_once_and_leaves_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, pace = Device(Cost(0.0, 0.01), Cost(0.0, 0.0)), Pace()
    device.install(monkeypatch)
    on = Watch(("train", "decide"), None, lambda: [CPU])
    on.locate()
    ten(on, device, pace)
    on.read(wait=True)
    before = pace.per_token

    def lost(_: torch.device) -> Any:
        raise RuntimeError("CUDA error: device unavailable")

    monkeypatch.setattr(timer, "recorded", lost)
    with pytest.warns(fs.FinesieveWarning, match=r"no more times \(CUDA error") as told:
        ten(on, device, pace)
    on.read(wait=True)
    assert len(told) == 1
    assert pace.per_token == before
    assert on.seconds == pytest.approx({"train": 8.0, "decide": 0.0})


def test_of_a_model_on_several_devices_the_longest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Device(Cost(0.0, 0.1), Cost(0.0, 0.0)), Device(Cost(0.0, 0.3), Cost(0.0, 0.0))
    parts = {torch.device("cuda", 0): first, torch.device("cuda", 1): second}
    monkeypatch.setattr(timer, "recorded", lambda at: simulated_event(parts[at]))
    found = timer_on(list(parts))
    assert isinstance(found, DeviceTimer)
    start = found.mark()
    for device in parts.values():
        device.call("train", 1, 10)
    end = found.mark()
    assert not found.reached(end)
    assert found.between(start, end) == pytest.approx(3.0)
    assert found.reached(end)


def simulated_event(device: Device) -> Any:
    from tests.costs.simulated import Event

    return Event(device)


def test_devices_are_those_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    assert devices_of(model) == [CPU, torch.device("meta")]
    assert devices_of(None) == []
    # Of a scorer without a module nobody knows where it is: on the GPU that was used, if any.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert devices_of(None) == [torch.device("cuda:1")]
    assert devices_of(model) == [CPU, torch.device("meta")]
    monkeypatch.undo()  # what follows asks again
    assert isinstance(timer_on(devices_of(model)), ProgramTimer)


def test_a_model_that_is_moved_is_looked_for_when_a_pass_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, where = Device(Cost(0.0, 1.0), Cost(0.0, 0.0)), [CPU]
    monkeypatch.setattr(timer, "recorded", lambda _: simulated_event(device))
    on = Watch(("train",), None, lambda: where)
    on.locate()
    assert isinstance(on.timer, ProgramTimer)
    on.turn("train")
    where[0] = torch.device("cuda", 0)
    on.locate()
    assert isinstance(on.timer, DeviceTimer)
    device.call("train", 1, 5)
    on.turn(None)
    begin = time.perf_counter()
    on.read(wait=True)
    assert on.seconds["train"] == pytest.approx(5.0, abs=0.5)
    assert time.perf_counter() - begin < 0.5
