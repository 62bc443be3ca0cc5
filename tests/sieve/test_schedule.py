"""The schedule follows the stream, whatever the number of steps."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

import finesieve as fs
from tests.conftest import TableScorer, make_batches


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
    method = fs.methods.registry.build("finesieve", train=0.2, starts={2: 0.1, 3: 0.3}, predictor_bits=8)
    sieve = fs.Sieve(TableScorer(), method, total=800, pool=50, group=1, batch_size=8)
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
