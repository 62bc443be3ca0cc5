"""Transitions: when gates close, when they open again, and what they say about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve.scoring.protocol import Scores
from finesieve.stages.policy import OWN, Decision, View
from finesieve.stages.window import Window
from tests.conftest import TableScorer, make_batches
from tests.stages.kit import feed, limits, view


def auto(**settings: Any) -> fs.Method:
    kind = {"predictor_bits": 14, "patience": 300, "warmup": 0.0, "cost_ratio": 0.2}
    return fs.methods.registry.build("finesieve", **{**kind, **settings})


def test_concentrated_and_predictable_sizes_reach_stage_3_by_themselves() -> None:
    sieve = fs.Sieve(
        scorer=TableScorer(), method=auto(), total=8000, options=fs.SieveOptions(pool=200)
    )
    feed(sieve, make_batches(8000))
    assert [m["stage"] for m in sieve.moves][:3] == [1, 2, 3]
    assert "concentrated enough" in sieve.moves[1]["reason"]
    assert "proved itself" in sieve.moves[2]["reason"]
    c = sieve.ledger.examples
    assert c.yielded < 0.45 * 8000
    assert c.scored < 0.75 * 8000
    assert sieve.window.auc() > 0.8


class Flat(TableScorer):
    """All sizes alike: nothing can be skipped."""

    def __call__(self, batch: Any) -> Scores:
        n = len(batch["labels"])
        return Scores(np.full(n, 0.7, np.float32), np.full(n, 1.0, np.float32))


def test_equal_sizes_keep_the_gates_open() -> None:
    sieve = fs.Sieve(scorer=Flat(), method=auto(), total=4000)
    for batch in sieve(make_batches(4000)):
        sieve.loss(torch.full((len(batch["labels"]),), 0.7), batch)
    assert sieve.stage == 1
    assert sieve.ledger.examples.yielded == 4000
    assert sieve.ledger.examples.scored == 0


class Unpredictable(TableScorer):
    """Concentrated sizes that follow from nothing the predictor sees."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = np.random.default_rng(0)

    def sizes(self, n: int) -> np.ndarray:
        return (self.dice.random(n).astype(np.float32) ** 8) * 2 + 0.01

    def __call__(self, batch: Any) -> Scores:
        size = self.sizes(len(batch["labels"]))
        return Scores(size, size)


def test_a_predictor_that_cannot_tell_stays_out() -> None:
    """Stage 2 pays, but a forward gate that guesses would only add variance."""
    scorer = Unpredictable()
    # A cheap scoring pass: then nothing is won by scoring fewer.
    method = auto(cost_ratio=0.02, score=0.4, train=0.2)
    sieve = fs.Sieve(scorer=scorer, method=method, total=6000, options=fs.SieveOptions(pool=200))
    for batch in sieve(make_batches(6000)):
        sieve.loss(torch.from_numpy(scorer.sizes(len(batch["labels"]))), batch)
    assert {m["stage"] for m in sieve.moves} == {1, 2}


class Turning(TableScorer):
    """What was hard becomes easy and the reverse, half-way: the predictor goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.turned = False

    def __call__(self, batch: Any) -> Scores:
        x = batch["input_ids"][:, 0].float() / 100
        x = 1 - x if self.turned else x
        size = ((x + 0.01) ** 8 * 4).numpy()
        return Scores(size, size)


def test_the_way_back_when_the_predictor_degrades() -> None:
    scorer = Turning()
    sieve = fs.Sieve(
        scorer=scorer,
        method=auto(score=0.3, audit=0.05, cost_ratio=0.6),
        total=16000,
        options=fs.SieveOptions(pool=200, group=16),
    )
    batches = make_batches(16000)
    for i, batch in enumerate(sieve(batches)):
        x = batch["input_ids"][:, 0].float() / 100
        sieve.loss((x + 0.01) ** 8 * 4, batch)
        if sieve.stage == 3 and not scorer.turned and sieve.ledger.examples.drawn > 8000:
            scorer.turned = True
        assert i < 3000
    stages = [m["stage"] for m in sieve.moves]
    assert stages[:3] == [1, 2, 3]
    assert scorer.turned
    assert 2 in stages[3:]
    back = next(m for m in sieve.moves[3:] if m["stage"] == 2)
    assert "degraded" in back["reason"]
    assert back["from_example"] > 8000


def test_stages_by_hand() -> None:
    fixed = fs.Fixed({2: 0.25, 3: 0.5})
    assert fixed.next(1, [0.2], OWN) == Decision()
    assert fixed.next(1, [0.3], OWN) == Decision((2, "25% of the stream, as set"))
    assert fixed.next(2, [0.6], OWN).move == (3, "50% of the stream, as set")
    with pytest.raises(fs.ConfigError, match="starts before"):
        fs.Fixed({2: 0.5, 3: 0.2})
    with pytest.raises(fs.ConfigError, match="expected stages 2 and 3"):
        fs.Fixed({1: 0.5})
    sieve = fs.Sieve(
        scorer=TableScorer(), method=fs.methods.registry.build("finesieve", starts={2: 0.1})
    )
    with pytest.raises(fs.ConfigError, match="`total`"):
        list(sieve(make_batches(40)))
    with pytest.raises(fs.ConfigError, match=r"no setting .margin."):
        fs.methods.registry.build("finesieve", starts={2: 0.1}, margin=0.2)


def test_the_papers_rule() -> None:
    paper = fs.Paper(warmup=0.1, log_loss=0.5, window=4)
    window = Window(4)
    offer = fs.Offer(np.arange(4), loss=np.ones(4, np.float32), size=np.ones(4, np.float32))

    def move(seen: View) -> Any:
        return paper.next(seen.stage, paper.evidence(seen), OWN).move

    assert move(view(1, 0.05, 0, window)) is None
    window.add(offer)
    assert move(view(1, 0.1, 4, window))[0] == 2
    keep = np.asarray([True, True, False, False])
    bad = np.asarray([0.5, 0.5, 0.5, 0.5], np.float32)
    window.add(replace(offer, keep=keep, predicted=bad))
    assert move(view(2, 0.2, 4, window)) is None
    good = np.asarray([0.9, 0.9, 0.1, 0.1], np.float32)
    window.add(replace(offer, keep=keep, predicted=good))
    assert move(view(2, 0.2, 3, window)) is None  # window not full
    assert move(view(2, 0.2, 4, window))[0] == 3
    assert paper.next(2, [0.5, float("inf"), 1.0, 1.0], OWN) == Decision((3, "second pass"))
    assert paper.next(3, [0.9, 9.0, 1.0, 1.0], OWN) == Decision()  # no way back


def test_paper_method_end_to_end() -> None:
    method = fs.methods.registry.build("paper", warmup=0.1, window=200, log_loss=0.65)
    sieve = fs.Sieve(
        scorer=TableScorer(), method=method, total=4000, options=fs.SieveOptions(pool=100)
    )
    feed(sieve, make_batches(4000))
    assert [m["stage"] for m in sieve.moves] == [1, 2, 3]
    losses = (torch.cat([b["input_ids"][:, 0] for b in make_batches(400)]) / 100 + 0.01) ** 3 * 2
    threshold = method.backward.threshold
    assert threshold == pytest.approx(losses[-128:].mean().item(), rel=0.35)


def test_records_have_the_threshold_and_the_audit() -> None:
    method = fs.methods.registry.build(
        "finesieve", predictor_bits=12, starts={2: 0.0, 3: 0.3}, audit=0.2, cost_ratio=0.2
    )
    sieve = fs.Sieve(
        scorer=TableScorer(), method=method, total=3000, options=fs.SieveOptions(pool=200)
    )
    assert sieve.threshold is None
    events = []
    sieve._flow.tell.listeners.append(events.append)
    feed(sieve, make_batches(3000))
    last = [e for e in events if e["event"] == "pool"][-1]
    z = last["size"] / last["forward_probability"]
    certain = last["backward_probability"] == 1
    assert sieve.threshold is not None
    assert z[certain].min() > 0  # below the threshold, too, where a class would be starved
    assert np.nanmax(z[~certain]) <= sieve.threshold * (1 + 1e-5)
    assert 0.3 < sieve.window.audit() < 3


# ---- collapse


def test_every_move_of_the_automatic_policy() -> None:
    policy = fs.Automatic(margin=0.05, slack=0.25)
    ready = 1.0
    cases = {
        (1, ready, 0.96, 0.96): None,
        (1, ready, 0.94, 2.0): 2,
        (1, ready, 2.0, 0.94): 3,  # never a stage that does not pay
        (1, ready, 0.93, 0.94): 2,
        (1, 0.5, 0.5, 0.5): None,  # not every rank is ready
        (2, ready, 0.8, 0.81): None,
        (2, ready, 0.8, 0.77): None,  # it saves too little
        (2, ready, 0.8, 0.75): 3,
        (2, ready, 0.97, 0.96): None,  # a forward gate that hardly pays
        (2, ready, 1.09, 1.2): None,
        (2, ready, 1.11, 1.2): 1,
        (2, ready, 1.13, 0.96): 1,  # 3 would be cheaper, but has not proved itself
        (2, ready, 1.13, 0.94): 3,
        (3, ready, 0.8, 0.99): None,
        (3, ready, 0.8, 1.01): 2,
        (3, ready, 1.2, 1.2): 1,
        (3, ready, 1.08, 1.3): 1,  # dear, though stage 2 is nearly level
        (3, ready, 1.2, 1.6): 1,
        (3, ready, 0.97, 1.12): 2,
        (3, ready, 1.04, 1.08): None,
    }
    for (stage, agreed, *prices), target in cases.items():
        move = policy.next(stage, [agreed, 0.5, *prices], OWN).move
        assert (move[0] if move else None) == target, (stage, prices)


def test_the_sieve_follows_the_measured_cost_ratio_in_coarse_steps() -> None:
    """A clock on which scoring a token costs 0.4 of training on one."""
    now = [0.0]

    class Slow(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            now[0] += 0.4 * float(batch["attention_mask"].sum())
            return super().__call__(batch)

    seen = []

    class Watching(fs.Gate):
        def decide(self, offer: fs.Offer) -> fs.Verdict:
            seen.append(offer.cost_ratio)
            return fs.Verdict(offer.size > 0.1)

    method = fs.Method("watching", fs.Open(), Watching(), fs.Fixed({2: 0.0}))
    sieve = fs.Sieve(
        scorer=Slow(),
        method=method,
        total=4000,
        options=fs.SieveOptions(pool=200, clock=lambda: now[0]),
    )
    for batch in sieve(make_batches(4000)):
        now[0] += float(batch["attention_mask"].sum())
        sieve.loss(torch.zeros(len(batch["labels"]), requires_grad=True), batch)
    assert seen[0] == fs.gates.COST_RATIO / fs.gates.SURVIVOR  # nothing measured yet
    assert seen[-1] == pytest.approx(0.4, rel=0.12)
    assert len(set(seen)) == 2
    costs = sieve.state_dict()["meter"]
    assert costs["score"] / costs["train"] == seen[-1]


def test_without_a_scoring_pass_training_losses_teach_with_their_probability() -> None:
    gate = fs.PredictorGate(fs.SizeRegression(12), fs.ThresholdSampling(0.4, 0.1))
    sieve = fs.Sieve(
        method=fs.Method("forward", gate, fs.Open(), fs.Fixed({3: 0.0})),
        options=fs.SieveOptions(pool=100),
    )
    feed(sieve, make_batches(8000))
    assert sieve.ledger.examples.scored == 0
    assert 0.3 < sieve.ledger.examples.yielded / 8000 < 0.5
    q = sieve.window.column("probability")
    assert q.min() < 0.3
    assert q.max() > 0.9
    x = torch.cat([b["input_ids"][:, 0] for b in make_batches(8000)])
    stream = ((x / 100 + 0.01) ** 3 * 2).mean().item()
    assert sieve.window.mean_loss() == pytest.approx(stream, rel=0.15)


@pytest.mark.parametrize("dearer", [1.0, 1.9])
def test_gates_open_again_when_survivors_turn_out_too_dear(dearer: float) -> None:
    """Small batches cost more an example: measured with gates closed, then part of the price."""
    now = [0.0]

    class Timed(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            now[0] += 0.3 * float(batch["attention_mask"].sum())
            return super().__call__(batch)

    method = fs.methods.registry.build(
        "finesieve", predictor_bits=14, patience=300, warmup=0.0, train=0.5
    )
    sieve = fs.Sieve(
        scorer=Timed(),
        method=method,
        total=8000,
        options=fs.SieveOptions(pool=200, clock=lambda: now[0]),
    )
    for batch in sieve(make_batches(8000)):
        each = 1.0 if bool((batch["sieve_weights"] == 1).all()) else dearer
        now[0] += each * float(batch["attention_mask"].sum())
        losses = (batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2
        sieve.loss(losses, batch)
    stages = [m["stage"] for m in sieve.moves]
    assert sieve.costs[1] == pytest.approx(dearer, rel=0.1)
    if dearer == 1.0:
        assert 1 not in stages[1:]
    else:
        assert stages.count(1) >= 2
        assert "skipping does not pay now" in next(
            m["reason"] for m in sieve.moves[1:] if m["stage"] == 1
        )


def test_scoring_is_measured_before_gates_may_open_again() -> None:
    """Within the patience of the default pool; what it costs is charged in full, and once.

    The price by hand: scoring all costs 0.4 of plain training an example, and a survivor 1.2.
    """
    now = [0.0]

    class Timed(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            now[0] += 0.4 * float(batch["attention_mask"].sum())
            found = super().__call__(batch)
            return Scores(found.loss**2, found.loss**2)

    method = fs.methods.registry.build("finesieve", predictor_bits=14, warmup=0.0, train=0.3)
    sieve = fs.Sieve(
        scorer=Timed(),
        method=method,
        total=20000,
        options=fs.SieveOptions(clock=lambda: now[0], group=2),
    )
    for batch in sieve(make_batches(20000)):
        each = 1.0 if sieve.stage == 1 else 1.2
        now[0] += each * float(batch["attention_mask"].sum())
        losses = ((batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2) ** 2
        sieve.loss(losses, batch)
        if (
            sieve.stage == 2
            and sieve.window.revealed - sieve._flow.transitions._revealed_before >= 768
        ):
            break
    assert sieve.stage == 2
    assert sieve.costs == pytest.approx((0.4, 1.2), rel=0.06)
    over = view(  # when the patience is over
        2,
        0.5,
        1024,
        sieve.window,
        costs=sieve.costs,
        limits=limits(backward=sieve.method.backward.limits()),
    )
    price = sieve.method.stages.evidence(over)[2]
    size = sieve.window.column("size")[-1024:]
    p = np.concatenate(
        [  # the gates decide on 256 at a time
            fs.gates.sampling.inclusion(
                pool, fs.gates.sampling.solve_threshold(pool, 0.3 * 256, 0.05), 0.05
            )
            for pool in np.split(size, 4)
        ]
    )
    variance = (size**2 / p).sum() / (size**2).sum()
    score, train = sieve.costs
    assert price == pytest.approx(variance * (score + train * p.mean()), rel=0.01)


def test_gates_never_stay_where_it_costs_more_than_plain_training() -> None:
    """Scoring everything is dear and the predictor is of no use: the way back, at once."""
    policy = fs.Automatic(margin=0.05)
    for backward in (1.1, 1.3, 2.0):
        for forward in (0.96, 1.0, 5.0):
            move = policy.next(2, [1.0, 0.5, backward, forward], OWN).move
            assert move is not None
            assert move[0] == 1
