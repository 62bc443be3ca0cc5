"""The schedule follows the stream, whatever the number of steps."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

import finesieve as fs
from tests.conftest import TableScorer, by_hand, make_batches


@pytest.mark.parametrize("shape", ["cosine", "onecycle", "transformers"])
def test_any_shape_is_fully_decayed_at_the_end_of_a_filtered_stream(shape: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    steps = 800 // 8
    if shape == "cosine":
        inner = CosineAnnealingLR(optimizer, steps)
    elif shape == "onecycle":
        inner = OneCycleLR(optimizer, 1.0, total_steps=steps + 1)
    else:
        from transformers import get_linear_schedule_with_warmup

        inner = get_linear_schedule_with_warmup(optimizer, 10, steps)
    method = fs.methods.registry.build(
        "finesieve", train=0.2, starts={2: 0.1, 3: 0.3}, predictor_bits=8
    )
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=method,
        total=800,
        options=fs.SieveOptions(pool=50, group=1, batch_size=8),
    )
    schedule = fs.StreamSchedule(inner, steps, lambda: sieve.progress)
    rates, count = [], 0
    for _ in sieve(make_batches(800)):
        parameter.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
        count += 1
    assert count < 0.6 * steps
    assert rates[-1] < 1e-3
    assert max(rates) > 0.5


def test_rate_follows_progress_not_steps() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    inner = LambdaLR(optimizer, lambda step: 1 - step / 10)
    progress = [0.0]
    schedule = fs.StreamSchedule(inner, 10, lambda: progress[0])
    optimizer.step()
    for share, rate in ((0.05, 1.0), (0.35, 0.7), (0.35, 0.7), (2.0, 0.0)):
        progress[0] = share
        schedule.step()
        assert inner.get_last_lr() == pytest.approx([rate])
    twin = fs.StreamSchedule(
        LambdaLR(optimizer, lambda step: 1 - step / 10), 10, lambda: progress[0]
    )
    twin.load_state_dict(schedule.state_dict())
    assert twin.schedule.last_epoch == 10


def test_with_open_gates_the_rate_is_the_plain_one_at_every_step() -> None:
    rates = []
    for wrapped in (False, True):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        inner = LambdaLR(optimizer, lambda step: 1 - step / 100)
        sieve = fs.Sieve(method="full", total=800)
        schedule = fs.StreamSchedule(inner, 100, lambda s=sieve: s.progress)
        rates.append([])
        for _ in sieve(make_batches(800)):
            optimizer.step()
            (schedule if wrapped else inner).step()
            rates[-1].append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]


def test_bad_use() -> None:
    with pytest.raises(fs.ConfigError, match="steps is 0"):
        fs.StreamSchedule(None, 0, lambda: 0.0)
    with pytest.raises(fs.ConfigError, match="`total`"):
        _ = fs.Sieve(method="full").progress


# ---- a schedule that goes by steps

STEPS = 100  # of plain training in each pass, of batches of 4


def loop(make: Any, *, passes: int = 1, how: str = "step", size: int = 4, **more: Any) -> None:
    """A plain loop over 400 examples with a schedule of its own; a warning is an error."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = make(optimizer)
    sieve = fs.Sieve(
        **{
            "scorer": TableScorer(),
            "method": by_hand(),
            "total": 400 * passes,
            "options": fs.SieveOptions(pool=50, group=2, batch_size=size),
            **more,
        },
    )
    if how == "stream":
        schedule = fs.StreamSchedule(schedule, STEPS * passes, lambda: sieve.progress)
    made = 0
    for _ in range(passes):
        for _ in sieve(make_batches(400, batch=4)):
            parameter.grad = torch.ones(1)
            optimizer.step()
            made += 1
            if how in ("step", "stream"):
                schedule.step()
            elif how == "plateau" and made % 10 == 0:
                schedule.step(1.0)
        if how == "pass":
            schedule.step()


def linear(steps: int) -> Any:
    return lambda optimizer: LinearLR(optimizer, 1.0, 0.0, total_iters=steps)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (
            {"make": linear(STEPS)},
            "% of plain training's steps, .* ends at [1-9][0-9]% of its peak",
        ),
        ({"make": linear(3 * STEPS), "passes": 3}, "ends at [1-9][0-9]% of its peak"),
        ({"make": lambda o: CosineAnnealingLR(o, STEPS)}, "ends at [1-9][0-9]% of its peak"),
        ({"make": linear(STEPS // 2), "size": 1}, "was 0 for at least the last [1-9][0-9]* of"),
    ],
    ids=["linear", "three passes", "cosine", "small batches"],
)
def test_a_schedule_by_steps_is_noticed_once(case: dict[str, Any], said: str) -> None:
    with pytest.warns(fs.FinesieveWarning, match=r"sieve\.schedule\(schedule\)") as found:
        loop(**case)
    (one,) = (w for w in found if w.category is fs.FinesieveWarning)
    assert one.filename == __file__
    assert re.search(said, str(one.message))


@pytest.mark.parametrize(
    "case",
    [
        {"make": linear(STEPS), "how": "stream"},
        {"make": linear(3 * STEPS), "how": "stream", "passes": 3},
        {"make": linear(STEPS), "method": "full"},
        {"make": linear(STEPS), "method": fs.methods.registry.build("finesieve", starts={})},
        {"make": linear(STEPS), "total": None, "method": "random"},  # whoever counts steps
        {"make": linear(30), "method": "random"},  # built for the steps that it makes
        {"make": lambda o: ConstantLR(o, 1.0)},
        {"make": lambda o: None, "how": "nothing"},
        {"make": lambda o: LinearLR(o, 0.1, 1.0, total_iters=10)},  # a warm-up, then constant
        {"make": lambda o: StepLR(o, 1, 0.1), "how": "pass", "passes": 3},
        {"make": lambda o: ReduceLROnPlateau(o, patience=0), "how": "plateau"},
        {"make": linear(STEPS), "method": fs.methods.registry.build("authors", window=50)},
    ],
    ids=lambda setting: ", ".join(setting),
)
def test_other_rates_are_no_reason_to_warn(case: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", fs.FinesieveWarning)
        loop(**case)


@pytest.mark.parametrize(
    ("total", "passes", "said"),
    [
        (160, 3, r"176 examples were drawn, and total=160: .* all passes: epochs \* len\(data\)"),
        (20, 1, r"32 examples were drawn, and total=20: total counts examples and not batches"),
    ],
)
def test_a_stream_that_is_longer_than_its_total_is_told_of_once(
    total: int, passes: int, said: str
) -> None:
    batches = make_batches(160)
    sieve = fs.Sieve(method=fs.RandomSubset(0.5), total=total, options=fs.SieveOptions(pool=32))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(passes):
            for _ in sieve(batches):
                pass
    assert len(told) == 1
    assert issubclass(told[0].category, fs.errors.FinesieveWarning)
    assert re.search(said, str(told[0].message))


def test_a_total_that_is_right_or_not_needed_is_not_told_of() -> None:
    batches = make_batches(160)
    for method, total in (
        (fs.RandomSubset(0.5), 320),
        (fs.RandomSubset(0.5), None),
        (fs.Full(), 20),
    ):
        sieve = fs.Sieve(method=method, total=total, options=fs.SieveOptions(pool=32))
        for _ in range(2):
            for _ in sieve(batches):
                pass
