"""The books are fair to every method: every artificial second is where it was spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.scoring.protocol import Scores
from tests.conftest import TableScorer, make_batches, small_sieve

# Seconds: to draw a batch, to make features of a pool, to score a token, to train on one, and for
# an optimizer step.
DRAW, FEATURES, SCORE, TRAIN, STEP = 0.5, 0.25, 0.003, 0.011, 0.7
SETTINGS: dict[str, dict[str, Any]] = {
    "finesieve": {"predictor_bits": 12, "patience": 200, "warmup": 0.0},
    "paper": {"window": 200, "log_loss": 9.0},
    "authors": {"window": 200, "log_loss": 9.0},
}


@pytest.mark.parametrize("name", fs.methods.REGISTRY)
def test_every_second_is_booked_where_it_was_spent(name: str) -> None:
    now = [0.0]
    spent = {"decide": 0.0, "score": 0.0, "train": 0.0, "data": 0.0}

    def spend(on: str, seconds: float) -> None:
        now[0] += seconds
        spent[on] += seconds

    class Scorer(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            if sieve.stage > 1:  # before, it is only tried out, outside of the books
                spend("score", SCORE * float(batch["attention_mask"].sum()))
            return super().__call__(batch)

    features = fs.gates.features.token_features()

    def slow_features(batch: Any) -> fs.Features:
        spend("decide", FEATURES)
        return features(batch)

    def loader() -> Iterator[Any]:
        for batch in make_batches(3000):
            spend("data", DRAW)
            yield batch

    method = fs.methods.registry.build(name, **SETTINGS.get(name, {}))
    sieve = fs.Sieve(
        scorer=Scorer(),
        method=method,
        total=3000,
        options=fs.SieveOptions(pool=128, features=slow_features, clock=lambda: now[0]),
    )
    for batch in sieve(loader()):
        spend("train", STEP + TRAIN * float(batch["attention_mask"].sum()))
        first = batch["input_ids"][:, 0].float()
        losses = (first / 100 + 0.01) ** 3 * 2
        sieve.loss(losses.requires_grad_(), batch)
    books = sieve.ledger
    assert books.seconds == pytest.approx(spent, rel=0.01, abs=1e-6)
    assert sum(books.seconds.values()) == pytest.approx(now[0], rel=1e-9)
    # And what was scored and trained on costs what the books say it does.
    assert books.seconds["score"] == pytest.approx(SCORE * books.tokens.scored)
    assert books.seconds["train"] >= TRAIN * books.tokens.yielded
    assert torch.is_grad_enabled()


def test_the_books_add_up() -> None:
    """With a clock that moves by hand: scoring 2 s a batch, training 3 s, data 0.5 s."""
    now = [0.0]

    class Slow(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            now[0] += 2 * (sieve.stage > 1)  # before, it is only tried out
            return super().__call__(batch)

    def loader() -> Iterator[Any]:
        for b in make_batches(400):
            now[0] += 0.5
            yield b

    scorer = Slow()
    sieve = small_sieve(scorer=scorer, clock=lambda: now[0])
    steps = 0
    for _ in sieve(loader()):
        now[0] += 3
        steps += 1
    assert sieve.ledger.seconds == {
        "decide": 0.0,
        "score": 2.0 * (len(scorer.calls) - 1),
        "train": 3.0 * steps,
        "data": 0.5 * 50,
    }
    tokens = sum(int(b["attention_mask"].sum()) for b in make_batches(400))
    assert sieve.ledger.tokens.drawn == tokens
    flops = sieve.ledger.flops(1000)
    assert flops["train"] == 6000 * sieve.ledger.tokens.yielded
    assert flops["score"] == 2000 * sieve.ledger.tokens.scored
    assert sieve.ledger.flops(1000, 200)["train"] == 4400 * sieve.ledger.tokens.yielded


@pytest.mark.parametrize(("starts", "most"), [({}, 4), ({2: 0.0}, 7)])
def test_the_clock_is_read_where_the_kind_of_work_changes(
    starts: dict[int, float], most: int
) -> None:
    """Each reading is an event in a device's queue: with open gates four a step."""
    asked = [0]

    def clock() -> float:
        asked[0] += 1
        return float(asked[0])

    method = fs.methods.registry.build("finesieve", 0, starts=starts, cost_ratio=0.3, train=0.5)
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=method,
        total=1600,
        head_start=0,
        options=fs.SieveOptions(clock=clock),
    )
    for batch in sieve(make_batches(1600)):
        sieve.loss(torch.ones(len(batch["labels"])), batch)
    assert asked[0] <= most * 1600 / 8 + 20
