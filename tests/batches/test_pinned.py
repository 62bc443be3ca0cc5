"""Survivors lie in pinned memory where the loader's batches do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import TableScorer, make_batches, small_sieve


class Memory:
    """Remembers which tensors were pinned: without a GPU there is no such memory."""

    def __init__(self) -> None:
        self.pinned: list[Tensor] = []  # the tensors themselves: an id may be given again

    def has(self, tensor: Tensor) -> bool:
        return any(tensor is other for other in self.pinned)

    def pin(self, tensor: Tensor) -> Tensor:
        if not self.has(tensor):
            tensor = tensor.clone()
            self.pinned.append(tensor)
        return tensor


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Memory()
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: found.has(tensor))
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: found.pin(tensor))
    return found


class Seeing(TableScorer):
    """Notes whether what it is given lies in pinned memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def __call__(self, batch: Any) -> Any:
        self.seen += [value.is_pinned() for value in batch.values()]
        return super().__call__(batch)


@pytest.mark.parametrize("pinned", [False, True])
def test_survivors_are_where_the_loaders_batches_are(memory: Memory, pinned: bool) -> None:
    batches = make_batches(400)
    if pinned:
        batches = [{key: value.pin_memory() for key, value in b.items()} for b in batches]
    scorer = Seeing()
    sieve = small_sieve(scorer=scorer)
    count = 0
    for batch in sieve(batches):
        sieve.observe(torch.ones(len(batch["labels"])), batch)
        where = [memory.has(batch[key]) for key in batches[0]]
        assert where == [pinned] * len(where)
        count += 1
    assert sieve.stage == 3
    assert 12 < count < 50
    assert set(scorer.seen) == {pinned}
