"""The meter: what decisions go by, and the ledger that they do not read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import finesieve as fs
from finesieve.costs.meter import COST_RATIO, SURVIVOR, Meter, Work
from finesieve.scoring.protocol import Scores
from tests.conftest import TableScorer, make_batches


def timed(meter: Meter, name: str, seconds: float) -> None:
    """Enough batches of ten tokens to be a measurement."""
    for _ in range(20):  # the first of which are not believed
        meter.paces[name].add(10 * seconds, 10)


def test_costs_are_guesses_until_they_are_measured() -> None:
    meter = Meter()
    meter.follow()
    assert (meter.score, meter.train) == (COST_RATIO, SURVIVOR)
    assert meter.ratio == COST_RATIO / SURVIVOR
    timed(meter, "score", 0.5)
    assert meter.relative("score") is None  # over nothing
    timed(meter, "open", 2.0)
    assert meter.relative("score") == pytest.approx(0.25)
    meter.follow()
    assert meter.score == pytest.approx(0.25, rel=0.05)
    assert meter.train == SURVIVOR


def test_survivors_stand_in_where_nothing_was_trained_on_plainly() -> None:
    meter = Meter()
    timed(meter, "score", 0.5)
    timed(meter, "closed", 1.0)
    assert meter.relative("closed") == 1.0
    assert meter.relative("score") == pytest.approx(0.5)


def test_work_is_counted_and_what_waits_with_it() -> None:
    meter = Meter()
    assert meter.work(None) == Work()
    meter.draw(10, 50)
    meter.hand_out(20, opened=True)
    meter.hand_out(6, opened=False)
    meter.scored += 15
    work = meter.work(100, opened=3, closed=4)
    assert work == Work(open=23, closed=10, scored=15, whole=500.0)
    assert work.spent(0.2, 1.5) == pytest.approx((23 + 15 + 3) / 500)
    assert work.spent(0.2, 1.5, of=50) == pytest.approx(41 / 50)
    assert meter.work(None).whole == 0


def test_a_meter_takes_up_its_state() -> None:
    meter, twin = Meter(), Meter()
    timed(meter, "open", 1.0)
    timed(meter, "closed", 2.0)
    meter.draw(10, 50)
    meter.hand_out(20, opened=True)
    meter.hand_out(7, opened=False)
    meter.scored += 3
    meter.follow()
    twin.load_state_dict(meter.state_dict())
    assert twin.state_dict() == meter.state_dict()
    assert twin.work(20) == meter.work(20)
    assert twin.relative("closed") == 2.0


def test_nothing_flows_back_from_the_ledger() -> None:
    """With its counts and seconds spoiled at every batch, the same is done, to the bit."""

    def run(spoil: bool) -> list[Any]:
        now = [0.0]

        class Slow(TableScorer):
            def __call__(self, batch: Any) -> Scores:
                now[0] += 0.4 * float(batch["attention_mask"].sum())
                return super().__call__(batch)

        method = fs.Budget(0.2, predictor_bits=12, margin=0.1)
        sieve = fs.Sieve(
            scorer=Slow(), method=method, total=4000, options=fs.SieveOptions(clock=lambda: now[0])
        )
        made: list[Any] = []
        for batch in sieve(make_batches(4000)):
            now[0] += float(batch["attention_mask"].sum())
            losses = (batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2
            sieve.loss(losses, batch)
            made.append((batch["sieve_ids"].tolist(), batch["sieve_weights"].tolist()))
            if spoil:
                for counts in (sieve.ledger.examples, sieve.ledger.tokens):
                    counts.drawn += 1000
                    counts.scored += 1000
                    counts.yielded += 1000
                for name in sieve.ledger.seconds:
                    sieve.ledger.seconds[name] += 1.0
        return [made, sieve.moves, sieve.costs, sieve.progress]

    plain, spoiled = run(spoil=False), run(spoil=True)
    assert [move["stage"] for move in plain[1]] == [1, 3]
    assert spoiled == plain


def test_the_meter_agrees_with_the_ledger() -> None:
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=fs.methods.registry.build(
            "finesieve", 0, predictor_bits=12, starts={2: 0.2, 3: 0.5}, cost_ratio=0.2
        ),
        total=2000,
    )
    for batch in sieve(make_batches(2000)):
        sieve.loss((batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2, batch)
    meter, tokens = sieve.meter, sieve.ledger.tokens
    assert meter.drawn == sieve.ledger.examples.drawn == 2000
    assert meter.drawn_tokens == tokens.drawn
    assert meter.opened + meter.closed == tokens.yielded
    assert 0 < meter.scored == tokens.scored
    assert np.isclose(meter.work(2000).whole, tokens.drawn)


def test_scoring_dearer_than_training_is_not_believed_at_once() -> None:
    meter = Meter()
    timed(meter, "open", 1.0)
    timed(meter, "score", 4.0)
    meter.scored = 1
    costs = []
    for _ in range(3):
        meter.follow()
        meter.follow()  # nothing new was timed: that is no second measurement
        costs.append(meter.score)
        meter.paces["score"].add(40.0, 10)
    assert costs[:2] == [COST_RATIO, COST_RATIO]
    assert costs[2] == pytest.approx(4.0, rel=0.05)


def test_batches_taken_ahead_and_those_that_nobody_tells_of() -> None:
    meter = Meter()
    for _ in range(3):
        meter.begin(True, examples=2, tokens=8, longest=5)
    waiting, both = meter.trained(0), meter.trained(2)
    assert waiting is not None
    assert waiting.batches == 0
    assert both is not None
    assert (both.batches, both.tokens, both.padded, both.shape) == (2, 16, 20, (2, 5))
    assert meter.trained(None) is not None  # a host that may tell yet
    last = meter.trained(7)
    assert last is not None
    assert last.batches == 1
    assert meter.trained(1) is None
    for _ in range(70):
        meter.begin(True, examples=2, tokens=8, longest=5)
    never = meter.trained(None)
    assert never is not None
    assert never.batches == 1


def test_what_smaller_batches_cost_follows_from_what_a_launch_takes() -> None:
    meter, dice = Meter(), np.random.default_rng(0)
    for size in dice.integers(50, 150, 60):
        meter.paces["open"].add(1.0 + 0.01 * float(size), int(size))
    meter.forward = 1000.0
    meter.follow(opened=True)
    assert meter.launching == pytest.approx(0.5, abs=0.05)
    assert meter.smaller(0.5) == pytest.approx(1.5, abs=0.05)
    assert meter.smaller(1.0) == 1.0
    # Nothing was scored yet: ten plain batches go into one forward, with one launch.
    assert meter.score == pytest.approx(0.3 * (1.0 + 10.0) / (2.0 * 10.0), rel=0.1)
    again = Meter()
    again.load_state_dict(meter.state_dict())
    assert (again.launching, again.score) == (meter.launching, meter.score)


def test_what_was_measured_on_a_cold_device_is_not_believed() -> None:
    meter = Meter()
    timed(meter, "open", 5.0)
    timed(meter, "score", 0.1)
    timed(meter, "closed", 1.2)  # the same work, now that kernels are loaded
    assert meter.relative("closed") == pytest.approx(1.0)
    assert meter.relative("score") == pytest.approx(0.1 / 1.2)
    warm = Meter()
    timed(warm, "open", 1.0)
    timed(warm, "closed", 0.8)  # texts of other lengths, say
    assert warm.relative("closed") == pytest.approx(0.8)


def test_examples_of_a_head_start_leave_the_price_of_scoring_a_guess() -> None:
    meter = Meter()
    meter.scored = 512  # none of those forwards was timed
    for padded in (200, 400) * 8:  # a launch is worth a hundred thousand tokens
        meter.paces["open"].add(0.1 + 1e-6 * padded, padded, padded=padded)
    meter.forward = 3000.0
    meter.follow(opened=True)
    assert meter.score < 0.05 < COST_RATIO
