"""A state that is saved without texts holds none, and a run that takes it up keeps right books."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

import finesieve as fs
from tests.conftest import Bag, by_hand, make_batches, small_sieve, train

SECRET = 1_000  # added to every token id


def marked() -> list[Any]:
    return [
        {**b, "input_ids": b["input_ids"] + SECRET * b["attention_mask"]} for b in make_batches(400)
    ]


def numbers(state: Any) -> Iterator[Any]:
    if isinstance(state, torch.Tensor):
        yield from state.flatten().tolist()
    elif isinstance(state, dict):
        for value in state.values():
            yield from numbers(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from numbers(value)


class Marked(Bag):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids % SECRET, attention_mask)


def sieve_of(texts: bool) -> fs.Sieve:
    options = {"save_texts": texts, "pool": 50, "group": 2}
    return small_sieve(scorer=None, model=Marked(), method=by_hand(1), **options)


@pytest.mark.parametrize("steps", [3, 14, 25])
def test_no_token_of_a_text_is_saved(steps: int) -> None:
    """In stage 1, 2 and 3; a state with texts shows that the test would find them."""
    found = {}
    for texts in (True, False):
        sieve, model = sieve_of(texts), Marked()
        train(sieve, marked(), model, torch.optim.SGD(model.parameters(), lr=0.1), stop=steps)
        state = sieve.state_dict()
        found[texts] = sum(x >= SECRET and x < SECRET + 100 for x in numbers(state))
        if texts and steps > 3:
            assert sieve.held > 0
    assert found[True] > 0
    assert found[False] == 0


@pytest.mark.parametrize("steps", [3, 14, 15, 16, 25, 26])
def test_a_run_that_takes_it_up_keeps_right_books(steps: int) -> None:
    sieve, model = sieve_of(False), Marked()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(sieve, marked(), model, optimizer, stop=steps)
    state, held, before = sieve.state_dict(), sieve.held, sieve.ledger.examples
    trained, dropped = before.yielded, before.dropped
    again = sieve_of(False)
    again.load_state_dict(state)
    assert again.held == 0
    assert again.ledger.examples.dropped == dropped + held
    assert again.ledger.examples.yielded == trained
    train(again, marked(), model, optimizer)
    counts = again.ledger.examples
    assert counts.drawn == 400 == counts.yielded + counts.dropped
    assert again.progress == pytest.approx(1.0)


def test_batches_that_a_host_had_taken_are_booked_as_dropped() -> None:
    sieve, model = sieve_of(False), Marked()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(sieve, marked(), model, optimizer, stop=14)
    taken = list(islice(sieve(marked()), 3))
    before = sieve.ledger.examples
    yielded, dropped, held = before.yielded, before.dropped, sieve.held
    again = sieve_of(False)
    again.load_state_dict(sieve.state_dict(ahead=[*taken, sieve.filler()]))
    lost = sum(len(batch["labels"]) for batch in taken)
    assert lost > 0
    assert again.ledger.examples.yielded == yielded - lost
    assert again.ledger.examples.dropped == dropped + held + lost
