"""A sieve that is gone takes nothing with it: no circle of references keeps the model in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from torch.nn import functional as F

import finesieve as fs
from tests.conftest import Bag, make_batches


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collector: what is freed is freed since nothing refers to it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def trained() -> list[Any]:
    """Trains with gates that close; returns weak references to the model and the sieve."""
    model = Bag()
    told: list[str] = []
    options = fs.SieveOptions(listeners=[lambda event: told.append(event["event"])])
    sieve = fs.Sieve(model, fs.Manual({2: 0.1, 3: 0.5}), total=512, options=options)
    for batch in sieve(make_batches(512)):
        logits = model(batch["input_ids"], batch["attention_mask"])
        sieve.loss(F.cross_entropy(logits, batch["labels"], reduction="none"), batch).backward()
    assert "pool" in told
    return [weakref.ref(model), weakref.ref(sieve), weakref.ref(model.head.weight)]


def test_model_and_sieve_are_freed_at_once(uncollected: None) -> None:
    trained()  # what is set up the first time may stay
    assert [found() is None for found in trained()] == [True, True, True]
