"""Loaders that write their batches into the memory of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve.batches.memory import Memory
from tests.conftest import Bag

Batches = list[dict[str, torch.Tensor]]


def made(count: int) -> Batches:
    """Batches of one width."""
    tokens = torch.randint(1, 90, (count, 8, 6), generator=torch.Generator().manual_seed(0))
    return [
        {"input_ids": t, "attention_mask": torch.ones_like(t), "labels": t[:, 0] % 2}
        for t in tokens
    ]


def one_buffer(batches: Batches) -> Iterator[dict[str, torch.Tensor]]:
    buffer = {key: torch.empty_like(column) for key, column in batches[0].items()}
    for batch in batches:
        yield {key: buffer[key].copy_(column) for key, column in batch.items()}


def buffers_in_turn(batches: Batches) -> Iterator[dict[str, torch.Tensor]]:
    """Three of NumPy's, as a loader with threads of its own has them."""
    buffers = [{k: np.empty_like(c.numpy()) for k, c in batches[0].items()} for _ in range(3)]
    for number, batch in enumerate(batches):
        buffer = buffers[number % 3]
        for key, column in batch.items():
            buffer[key][:] = column.numpy()
        yield {key: torch.from_numpy(column) for key, column in buffer.items()}


def train(sieve: fs.Sieve, model: Bag, loader: object) -> int:
    count = 0
    for batch in sieve(loader):  # type: ignore[arg-type]
        bare = fs.inputs(batch)
        losses = F.cross_entropy(
            model(bare["input_ids"], bare["attention_mask"]), bare["labels"], reduction="none"
        )
        sieve.loss(losses, batch).backward()
        count += 1
    return count


@pytest.mark.parametrize("loader", [one_buffer, buffers_in_turn])
@pytest.mark.parametrize("head_start", [0, 64])
@pytest.mark.parametrize("starts", [{}, {2: 0.0}])
def test_a_loader_that_reuses_its_memory_is_told_so(
    loader: Callable[[Batches], object], head_start: int, starts: dict[int, float]
) -> None:
    model = Bag()
    sieve = fs.Sieve(model, fs.Manual(starts), total=256, head_start=head_start)
    with pytest.raises(fs.BatchError, match="into the memory of an earlier batch"):
        train(sieve, model, loader(made(32)))


def test_what_is_never_put_together_may_share_memory() -> None:
    model = Bag()
    assert train(fs.Sieve(model, fs.Full()), model, one_buffer(made(8))) > 2


def test_the_same_batch_again_is_no_other_one() -> None:
    """Not a number is equal to itself there, and a batch may come again, in a second pass, say."""
    batch = {"x": torch.tensor([1.0, float("nan")]), "flag": torch.tensor([True, False])}
    memory = Memory()
    for _ in range(12):
        memory.see(batch)


def test_later_batches_are_not_looked_at() -> None:
    memory, column = Memory(), torch.zeros(4)
    memory.see({"x": column})
    for _ in range(8):
        memory.see({"x": torch.zeros(4)})
    column += 1
    memory.see({"x": column})
