"""A budget of time: met by count and by the clock, spent where it buys most."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve.costs.meter import Work, followed
from finesieve.gates.simple import Random
from finesieve.scoring.protocol import Scores
from finesieve.stages.budget import Budget
from finesieve.stages.policy import OWN, GateLimits, View
from finesieve.stages.window import Window
from tests.conftest import TableScorer, make_batches
from tests.stages.kit import view
from tests.stages.test_stages import Flat, feed

N = 9000


def method(budget: float, **settings: Any) -> fs.Method:
    return fs.methods.registry.build(
        "finesieve", 0, **{"budget": budget, "predictor_bits": 12, **settings}
    )


@pytest.mark.parametrize("budget", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("scorer", [TableScorer, Flat])
def test_a_budget_is_met_by_count(budget: float, scorer: Any) -> None:
    sieve = fs.Sieve(scorer=scorer(), method=method(budget, cost_ratio=0.2, margin=0.1), total=N)
    if scorer is TableScorer:
        feed(sieve, make_batches(N))
    else:
        for batch in sieve(make_batches(N)):
            sieve.loss(torch.full((len(batch["labels"]),), 0.7), batch)
    tokens = sieve.ledger.tokens
    spent = (tokens.yielded + 0.2 * tokens.scored) / tokens.drawn
    assert spent == pytest.approx(budget, rel=0.03)
    c = sieve.ledger.examples
    assert c.drawn == c.dropped + c.yielded == N
    if scorer is Flat:  # choosing buys nothing: a random share, and no scoring
        assert sieve.stage == 1
        assert c.scored == 0
        assert c.yielded == pytest.approx(budget * N, rel=0.03)
    else:
        assert [m["stage"] for m in sieve.moves] == [1, 3]
        assert "of the variance of a random share of the same cost" in sieve.moves[1]["reason"]


def test_a_random_share_is_spread_over_the_stream_and_weighs_alike() -> None:
    sieve = fs.Sieve(scorer=Flat(), method=method(0.2, cost_ratio=0.2), total=N)
    at, ids = [], []
    for batch in sieve(make_batches(N)):
        assert torch.equal(batch["sieve_weights"], torch.ones(len(batch["labels"])))
        assert len(batch["labels"]) <= 16  # the loader's own
        at.append(sieve.progress)
        ids += batch["sieve_ids"].tolist()
        sieve.loss(torch.full((len(batch["labels"]),), 0.7), batch)
    half = np.searchsorted(at, 0.5) / len(at)
    assert half == pytest.approx(0.5, abs=0.03)  # nothing is used up early
    counts = np.histogram(ids, bins=10, range=(0, N))[0]
    assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize(("more", "stages"), [({}, [1]), ({"margin": 0.3}, [1, 3])])
def test_gates_stay_open_unless_choosing_has_half_the_variance(
    more: dict[str, float], stages: list[int]
) -> None:
    """At 0.68 of the variance: fewer steps would cost more than that is worth."""
    sieve = fs.Sieve(scorer=TableScorer(), method=method(0.1, cost_ratio=0.2, **more), total=N)
    feed(sieve, make_batches(N))
    assert [m["stage"] for m in sieve.moves] == stages


class Vanishing(TableScorer):
    """Concentrated sizes at first, then all alike."""

    later = False

    def __call__(self, batch: Any) -> Scores:
        if self.later:
            n = len(batch["labels"])
            return Scores(np.full(n, 0.7, np.float32), np.full(n, 1.0, np.float32))
        return super().__call__(batch)


def test_it_goes_back_to_a_random_share_when_choosing_does_not_pay() -> None:
    scorer = Vanishing()
    sieve = fs.Sieve(scorer=scorer, method=method(0.3, cost_ratio=0.4, margin=0.1), total=2 * N)
    for batch in sieve(make_batches(2 * N)):
        losses = (batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2
        sieve.loss(torch.full_like(losses, 0.7) if scorer.later else losses, batch)
        scorer.later = scorer.later or sieve.ledger.examples.drawn > N
    assert [m["stage"] for m in sieve.moves] == [1, 3, 1]
    tokens = sieve.ledger.tokens
    assert (tokens.yielded + 0.4 * tokens.scored) / tokens.drawn == pytest.approx(0.3, rel=0.03)


def test_what_waits_when_gates_move_is_booked_as_it_was_made() -> None:
    """A random share's batches that go out after gates closed weigh 1 and are of the loader's size:
    they count for what plain training costs, not for what survivors cost."""
    sieve = fs.Sieve(scorer=TableScorer(), method=method(0.3, cost_ratio=0.2, margin=0.1), total=N)
    opened = late = 0
    for batch in sieve(make_batches(N)):
        weights = fs.batches.carry.ride(batch).weights
        sieve.loss((batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2, batch)
        if bool((weights == 1).all()):
            opened += int(batch["attention_mask"].sum())
            late += sieve.stage == 3
    assert late > 0
    assert sieve.meter.opened == opened
    assert sieve.work().open == opened


class World:
    """A clock of its own: a token costs 1 to train on, 1.3 in a batch of survivors, 0.4 to score.
    Now and then something else takes long, which is none of the training's cost."""

    def __init__(self) -> None:
        self.now, self.else_ = 0.0, 0.0

    def __call__(self) -> float:
        return self.now


class Scoring(TableScorer):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def __call__(self, batch: Any) -> Scores:
        self.world.now += 0.4 * int(batch["attention_mask"].sum())
        return super().__call__(batch)


@pytest.mark.parametrize("budget", [0.2, 0.5])
def test_a_budget_is_met_by_the_clock(budget: float) -> None:
    world = World()
    sieve = fs.Sieve(
        scorer=Scoring(world),
        method=method(budget, margin=0.1),
        total=N,
        options=fs.SieveOptions(clock=world),
    )
    batches = make_batches(N)
    plain, before = float(sum(int(b["attention_mask"].sum()) for b in batches)), 0
    for step, batch in enumerate(sieve(batches)):
        tokens, opened = int(batch["attention_mask"].sum()), sieve.meter.opened > before
        before = sieve.meter.opened
        world.now += tokens * (1.0 if opened else 1.3)
        if step % 40 == 39:  # an evaluation
            world.now += 2500.0
            world.else_ += 2500.0
        losses = (batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2
        sieve.loss(losses, batch)
    assert (world.now - world.else_) / plain == pytest.approx(budget, rel=0.08)
    assert sieve.costs == pytest.approx((0.4, 1.3), rel=0.1)


def test_of_the_ways_to_spend_it_the_one_of_least_variance() -> None:
    """A predictor that knows all makes scoring few the best, one that knows nothing many."""
    dice = np.random.default_rng(0)
    size = (dice.random(2000) ** 6).astype(np.float32)

    def share(predicted: np.ndarray) -> float:
        window = Window(2048)
        window.add(fs.Offer(np.arange(2000), loss=size, size=size, predicted=predicted))
        gates = (
            Random(0.3),
            fs.ThresholdSampling(None, 0.02),
            fs.ThresholdSampling(None, 0.02, cost_ratio=0.15),
        )
        stages, limits = Budget(), GateLimits(*(gate.limits() for gate in gates))
        done = Work(open=100, whole=1000.0)
        seen = view(1, 0.1, 2000, window, work=done, limits=limits)
        found = stages.next(1, stages.evidence(seen), OWN).shares
        assert found.score is not None
        assert found.train is not None
        # 0.1 of 0.3 is spent, 0.9 of the stream is left
        assert found.opening == pytest.approx(0.2 / 0.9)
        assert found.train + 0.15 * found.score == pytest.approx(0.2 / 0.9)
        # With the gates closed and before the next decision only what is left changes.
        late = replace(seen, stage=3, since=1, work=Work(open=120, whole=1000.0))
        after = stages.next(3, stages.evidence(late), found)
        assert after.move is None
        assert after.shares.score == found.score
        assert after.shares.opening == pytest.approx(0.18 / 0.9)
        assert after.shares.train == pytest.approx(max(0.01, 0.18 / 0.9 - 0.15 * found.score))
        return found.score

    assert share(size) <= 0.3
    assert share(dice.permutation(size)) >= 0.8


@pytest.mark.parametrize("drop", [1.0, 3.0, 6.0])
def test_sizes_that_fall_as_the_model_learns_are_no_reason_to_choose(drop: float) -> None:
    """By e^-drop over the window, and all alike inside any pool: there is nothing to choose."""
    given = method(0.2, cost_ratio=0.3)
    limits = GateLimits(*(g.limits() for g in (given.opening, given.forward, given.backward)))
    noise = np.random.default_rng(0).lognormal(0, 0.05, 2048)

    def decided(size: np.ndarray, stage: int) -> Any:
        window = Window(2048)
        small = size.astype(np.float32)
        window.add(fs.Offer(np.arange(2048), loss=small, size=small, predicted=small))
        view = View(stage, 0.1, 2048, 0, window, (0.3, 1.0), Work(open=100, whole=10000.0), limits)
        numbers = given.stages.evidence(view)
        return min(numbers[4:]), given.stages.next(stage, numbers, OWN).move

    falling = np.exp(-drop * np.arange(2048) / 2048)
    variance, move = decided(falling * noise, 1)
    assert variance > 1.0  # scoring costs something and buys nothing
    assert move is None
    assert decided(falling * noise, 3)[1][0] == 1
    # The same sizes in another order are worth choosing from once they differ enough.
    shuffled = np.random.default_rng(1).permutation(falling) * noise
    assert decided(shuffled, 1)[0] < variance
    assert (decided(shuffled, 1)[1] is not None) == (drop == 6.0)


def test_what_cannot_be_a_budget_is_refused() -> None:
    with pytest.raises(fs.ConfigError, match=r"budget is 1\.0; expected a share of plain"):
        method(1.0)
    with pytest.raises(fs.ConfigError, match="budget"):
        method(-0.1)
    unbounded = replace(method(0.3), opening=fs.Open())
    with pytest.raises(fs.ConfigError, match=r"budget is 1\.0.*opening=Random\(0\.2\)"):
        list(fs.Sieve(scorer=TableScorer(), method=unbounded, total=64)(make_batches(64)))
    with pytest.raises(fs.ConfigError, match="leave out train, score and starts"):
        method(0.3, train=0.1)
    sieve = fs.Sieve(scorer=TableScorer(), method=method(0.3))
    with pytest.raises(fs.ConfigError, match="give the sieve its length, `total`"):
        list(sieve(make_batches(64)))


def test_costs_are_followed_in_steps() -> None:
    assert followed(1.0, None, 1.1) == 1.0
    assert followed(1.0, 1.09, 1.1) == 1.0
    assert followed(1.0, 1.3, 1.1) == pytest.approx(1.1**3)
    assert followed(1.1**3, 1.25, 1.1) == pytest.approx(1.1**3)


def test_the_savings_that_are_logged_pay_for_dear_survivors() -> None:
    """By count a third is spent; that survivors take twice as long must show."""
    world = World()
    given = fs.methods.registry.build(
        "finesieve",
        0,
        predictor_bits=12,
        cost_ratio=0.2,
        train=0.2,
        score=0.4,
        starts={2: 0.1, 3: 0.1},
    )
    sieve = fs.Sieve(
        scorer=Scoring(world), method=given, total=N, options=fs.SieveOptions(clock=world)
    )
    for batch in sieve(make_batches(N)):
        world.now += int(batch["attention_mask"].sum()) * (1.0 if sieve.stage == 1 else 2.0)
        sieve.loss(torch.ones(len(batch["labels"])), batch)
    tokens = sieve.ledger.tokens
    assert sieve.figures()["sieve_saved"] == pytest.approx(1.0 - world.now / tokens.drawn, abs=0.03)
    assert tokens.yielded < 0.35 * tokens.drawn
    assert sieve.figures()["sieve_saved"] < 0.5  # 0.66 by count


def test_what_a_random_share_leaves_out_is_told() -> None:
    """Every example has its record, also those that are neither scored nor trained on."""
    events: list[dict[str, Any]] = []
    sieve = fs.Sieve(
        scorer=Flat(),
        method=method(0.2, cost_ratio=0.2),
        total=2000,
        options=fs.SieveOptions(listeners=[events.append]),
    )
    for batch in sieve(make_batches(2000)):
        sieve.loss(torch.full((len(batch["labels"]),), 0.7), batch)
    pools = [e for e in events if e["event"] == "pool"]
    assert sorted(np.concatenate([e["ids"] for e in pools]).tolist()) == list(range(2000))
    weight = np.concatenate([e["weight"] for e in pools])
    assert int((weight == 1).sum()) == sieve.ledger.examples.yielded
    assert int((weight == 0).sum()) == sieve.ledger.examples.dropped
    assert not any(e["scored"].any() for e in pools)


def test_an_opening_gate_may_keep_some_likelier_than_others() -> None:
    """Then survivors weigh the inverse: what is trained on estimates the pool."""

    class Halves(fs.Gate):
        def decide(self, offer: fs.Offer) -> fs.Verdict:
            p = np.where(offer.ids % 2 == 0, 0.8, 0.2).astype(np.float32)
            return fs.Verdict(self.dice.random(offer.n) < p, p)

        dice = np.random.default_rng(0)

    kind = fs.methods.registry.build("finesieve", 0, starts={2: 0.9}, predictor_bits=10)
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=replace(kind, opening=Halves()),
        total=20000,
        options=fs.SieveOptions(pool=200),
    )
    even = odd = 0.0
    for batch in sieve(make_batches(20000)):
        if sieve.stage > 1:
            break
        ids, weights = batch["sieve_ids"], batch["sieve_weights"]
        even += float(weights[ids % 2 == 0].sum())
        odd += float(weights[ids % 2 == 1].sum())
        sieve.loss(torch.zeros(len(ids)), batch)
    assert even == pytest.approx(odd, rel=0.05)
