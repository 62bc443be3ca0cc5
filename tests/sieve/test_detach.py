"""Detached, a sieve filters no more; what follows the stream goes on to its end."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve.batches.carry import examples_in, rides
from tests.conftest import Bag, make_batches

N, SIZE = 160, 8


def closed(**more: Any) -> fs.Sieve:
    method = fs.Manual({2: 0.0}, train=0.3, cost_ratio=0.2)
    options = fs.SieveOptions(pool=32, group=2, **more)
    return fs.Sieve(Bag(dropout=0.0), method, total=4 * N, options=options)


def test_the_rate_goes_on_to_its_end() -> None:
    """In the passes after it the rate is plain training's at the same place in the data: 628
    examples are 79 steps of 8."""
    model, batches = Bag(dropout=0.0), make_batches(N - 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sieve = fs.Sieve(model, fs.RandomSubset(0.3), total=4 * (N - 3))
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 79)
    schedule = sieve.schedule(decay)
    rates: list[float] = []
    for done in range(4):
        for batch in sieve(batches):
            given = fs.inputs(batch)
            logits = model(given["input_ids"], given["attention_mask"])
            losses = F.cross_entropy(logits, given["labels"], reduction="none")
            sieve.loss(losses, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        assert sieve.passes == done + 1
        assert sieve.progress == pytest.approx((done + 1) / 4)
        if done == 1:
            sieve.detach()
    drawn = [min(8 * i, 157) + 157 * done for done in (2, 3) for i in range(1, 21)]
    assert rates[-40:] == pytest.approx([1.0 - int(79 * n / 628 + 1e-6) / 79 for n in drawn])
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)


def test_detached_before_the_first_batch_the_rate_is_plain_trainings() -> None:
    model, batches = Bag(), make_batches(N)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sieve = fs.Sieve(model, fs.RandomSubset(0.3), total=N)
    schedule = sieve.schedule(torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches)))
    sieve.detach()
    rates = []
    for given in sieve(batches):
        assert not rides(given)
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0 - i / 20 for i in range(1, 21)])


def test_a_pass_under_way_is_filtered_to_its_end() -> None:
    batches, sieve, whole = make_batches(N), closed(), closed()
    expected = [b["sieve_ids"].tolist() for b in whole(batches)]
    seen, weights = [], []
    for i, batch in enumerate(sieve(batches)):
        seen.append(batch["sieve_ids"].tolist())
        weights += batch["sieve_weights"].tolist()
        if i == 2:
            sieve.detach()
            assert sieve.detached
    assert seen == expected
    assert max(weights) > 1.0
    assert all(a is b for a, b in zip(sieve(batches), batches, strict=True))
    assert sieve.passes == 2
    assert not fs.is_filler(batches[0])
    losses = torch.arange(8.0)
    sieve.observe(losses, batches[0])  # of a loop that takes the mean itself: nothing to learn
    assert sieve.loss(losses, batches[0]) == losses.mean()


def test_what_waits_of_a_pass_that_was_left_counts_as_consumed() -> None:
    batches, sieve = make_batches(N), closed()
    for _ in sieve(batches):
        if sieve.position == 12:
            break
    assert sieve.held > 0
    sieve.detach()
    drawn = sieve.ledger.examples.drawn
    for i, _ in enumerate(sieve(batches), 1):
        assert sieve.progress == pytest.approx((drawn + SIZE * i) / (4 * N))
    assert sieve.held == 0
    books = sieve.ledger.examples
    assert books.drawn == books.yielded + books.dropped


def test_ranks_share_their_progress() -> None:
    class Other:
        """Another rank that is at the end already."""

        def mean(self, values: list[float]) -> list[float]:
            return [(v + 1.0) / 2.0 for v in values]

    sieve = closed(agreement=Other())
    sieve.detach()
    for i, _ in enumerate(sieve(make_batches(N)), 1):
        assert sieve.progress == pytest.approx((SIZE * i / (4 * N) + 1.0) / 2.0)


def saved(sieve: fs.Sieve, ahead: Any = ()) -> Any:
    buffer = io.BytesIO()
    torch.save(sieve.state_dict(ahead), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("positioned", [False, True])
def test_a_state_saved_in_a_plain_pass_goes_on_there(positioned: bool) -> None:
    """Also with a batch that a host had taken and not trained on."""
    batches, sieve = make_batches(N), closed()
    list(sieve(batches))
    sieve.detach()
    stream = sieve(batches)
    for _ in range(6):
        batch = next(stream)
    state = saved(sieve, [batch])
    again = closed()
    again.load_state_dict(state)
    assert (again.detached, again.position, again.passes) == (True, 6, 1)
    assert again.progress == sieve.progress
    first, *rest = again(batches[6:] if positioned else batches, positioned=positioned)
    assert torch.equal(first["input_ids"], batches[5]["input_ids"])
    losses = torch.rand(SIZE)
    torch.testing.assert_close(again.loss(losses, first), losses.mean())
    assert all(a is b for a, b in zip(rest, batches[6:], strict=True))
    assert again.progress == pytest.approx(0.5)
    assert again.passes == 2


@pytest.mark.parametrize("cut", [3, None])
def test_a_state_saved_before_the_first_plain_pass(cut: int | None) -> None:
    """In the pass that is filtered to its end, and right after it."""
    batches, sieve, again = make_batches(N), closed(), closed()
    whole = []
    for i, batch in enumerate(sieve(batches), 1):
        whole.append(batch["sieve_ids"].tolist())
        if i == 2:
            sieve.detach()
        if i == cut:
            again.load_state_dict(saved(sieve))
    if cut is None:
        again.load_state_dict(saved(sieve))
    else:
        assert [b["sieve_ids"].tolist() for b in again(batches)] == whole[cut:]
    assert all(a is b for a, b in zip(again(batches), batches, strict=True))


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.ones(3, 2), 3),
        (torch.ones(()), 0),
        ({"lr": 0.1, "text": ["a", "b"]}, 2),
        ((torch.ones(4, 1), torch.ones(4)), 4),
        ([["a", "b", "c"], torch.ones(3)], 3),
        (object(), 0),
    ],
)
def test_examples_of_a_batch_of_any_form(batch: Any, count: int) -> None:
    assert examples_in(batch) == count
