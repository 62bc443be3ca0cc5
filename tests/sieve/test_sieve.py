"""The sieve itself: open gates change nothing, every example is counted, weights are unbiased."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import finesieve as fs
from finesieve.scoring.protocol import Scores
from tests.conftest import Bag, TableScorer, ids_of, make_batches, small_sieve, train

# ---- identity


def test_open_gates_change_nothing() -> None:
    batches = make_batches(101)
    sieve = fs.Sieve(method="full", total=101)
    out = list(sieve(batches))
    assert len(out) == len(batches)
    for ours, theirs in zip(out, batches, strict=True):
        bare = fs.inputs(ours)
        assert bare.keys() == theirs.keys()
        assert all(torch.equal(bare[k], theirs[k]) for k in theirs)
        assert ours["sieve_weights"].tolist() == [1.0] * len(theirs["labels"])
    assert ids_of(out) == list(range(101))


def test_training_with_open_gates_is_the_plain_loop_to_the_bit() -> None:
    batches = make_batches(200)
    ends = []
    for wrapped in (False, True):
        model = Bag()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(3)
        if wrapped:
            train(fs.Sieve(method="full"), batches, model, optimizer)
        else:
            for batch in batches:
                logits = model(batch["input_ids"], batch["attention_mask"])
                F.cross_entropy(logits, batch["labels"], reduction="none").mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


# ---- counting


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    batch=st.integers(1, 17),
    pool=st.integers(1, 120),
    group=st.integers(1, 5),
    size=st.integers(1, 20),
    starts=st.sampled_from([{}, {2: 0.0}, {3: 0.0}, {2: 0.2, 3: 0.6}, {2: 0.1}]),
    stop=st.integers(0, 40),
)
def test_conservation(
    n: int, batch: int, pool: int, group: int, size: int, starts: Any, stop: int
) -> None:
    """drawn = dropped + yielded + held, at any moment; in the end nothing is held."""
    method = fs.methods.registry.build("finesieve", predictor_bits=8, starts=starts)
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=method,
        total=n,
        options=fs.SieveOptions(pool=pool, group=group, batch_size=size),
    )
    yielded = []
    for i, b in enumerate(sieve(make_batches(n, batch))):
        yielded.append(b)
        c = sieve.ledger.examples
        assert c.drawn == c.dropped + c.yielded + sieve.held
        if i == stop:
            break
    else:
        c = sieve.ledger.examples
        assert c.drawn == n == c.dropped + c.yielded
        assert sieve.held == 0
        if yielded:
            assert sieve.progress == pytest.approx(1.0)
    ids = ids_of(yielded)
    assert len(ids) == len(set(ids)) == sieve.ledger.examples.yielded


def test_survivors_are_what_the_loader_gave() -> None:
    """Cut out, padded anew and sorted, yet token for token the same examples."""
    batches = make_batches(400)
    truth = {}
    for i, b in enumerate(batches):
        for row in range(len(b["labels"])):
            real = b["attention_mask"][row].bool()
            truth[8 * i + row] = (b["input_ids"][row][real].tolist(), int(b["labels"][row]))
    for batch in small_sieve()(batches):
        width = batch["attention_mask"].sum(1).max()
        assert batch["input_ids"].shape[1] == width  # no more padding than needed
        for row, i in enumerate(batch["sieve_ids"].tolist()):
            real = batch["attention_mask"][row].bool()
            got = (batch["input_ids"][row][real].tolist(), int(batch["labels"][row]))
            assert got == truth[i]
            assert (batch["input_ids"][row][~real] == 0).all()


def test_stages_by_hand_score_and_decide_what_they_should() -> None:
    scorer = TableScorer()
    sieve = small_sieve(scorer=scorer)
    list(sieve(make_batches(400)))
    assert [m["stage"] for m in sieve.moves] == [1, 2, 3]
    c = sieve.ledger.examples
    in_2 = sieve.moves[2]["from_example"] - sieve.moves[1]["from_example"]
    assert sum(scorer.calls) == c.scored + 2  # before the first step, outside of the books
    assert in_2 < c.scored < 400 - sieve.moves[1]["from_example"]
    assert c.decided == 400 - sieve.moves[2]["from_example"]


def test_group_holds_examples_of_like_length() -> None:
    batches = make_batches(4000, longest=40)
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=200, group=16),
    )
    waste = [1 - b["attention_mask"].float().mean().item() for b in sieve(batches)]
    assert np.mean(waste) < 0.1  # about 0.45 unsorted


@pytest.mark.filterwarnings("ignore:a pass is over and no loss came back")
def test_scoring_batches_are_of_like_length_and_larger_than_the_loaders() -> None:
    waste, sizes = [], []

    class Watching(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            waste.append(1 - batch["attention_mask"].float().mean().item())
            sizes.append(len(batch["labels"]))
            return super().__call__(batch)

    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    batches = make_batches(4000, batch=40, longest=40)
    list(
        fs.Sieve(scorer=Watching(), method=method, total=4000, options=fs.SieveOptions(pool=1024))(
            batches
        )
    )
    assert np.mean(waste) < 0.15  # about 0.45 unsorted
    assert max(sizes) == 80


# ---- unbiased


@pytest.mark.parametrize("start", [2, 3])
def test_weights_are_unbiased_through_both_gates(start: int) -> None:
    """Over many seeds the weighted mean of any value is that of the stream (z < 4).

    The value is the first token: what selection goes by, at both gates.
    """
    batches = make_batches(960, batch=30)
    value = torch.cat([b["input_ids"][:, 0].float() for b in batches])
    estimates, plain = [], []
    for seed in range(150):
        method = fs.methods.registry.build(
            "finesieve", seed, train=0.2, predictor_bits=12, starts={start: 0.0}
        )
        sieve = fs.Sieve(
            scorer=TableScorer(),
            method=method,
            total=960,
            options=fs.SieveOptions(pool=60, group=1),
        )
        total, unweighted = 0.0, []
        for batch in sieve(batches):
            picked = value[batch["sieve_ids"]]
            total += float((batch["sieve_weights"] * picked).sum())
            unweighted += picked.tolist()
        # Weights are normalised by the expected share of survivors, 20 % of the stream.
        estimates.append(total / (0.2 * 960))
        plain.append(np.mean(unweighted))
    # Without the weights the mean would be far off, so the test can fail.
    assert abs(np.mean(plain) - value.mean().item()) > 15
    error = np.mean(estimates) - value.mean().item()
    assert abs(error) < 4 * np.std(estimates) / np.sqrt(len(estimates))
    assert np.std(estimates) > 0


def test_random_survivors_weigh_one() -> None:
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.4), options=fs.SieveOptions(pool=50)
    )
    weights = torch.cat([b["sieve_weights"] for b in sieve(make_batches(500))])
    assert weights == pytest.approx(torch.ones(len(weights)))


def test_reduce_is_the_weighted_mean() -> None:
    batch = {"sieve_ids": torch.arange(3), "sieve_weights": torch.tensor([0.5, 1.0, 2.0])}
    sieve = fs.Sieve(method="full")
    losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    reduced = sieve.loss(losses, batch)
    assert reduced.item() == pytest.approx((0.5 + 2 + 6) / 3)
    reduced.backward()
    assert losses.grad.tolist() == pytest.approx([0.5 / 3, 1 / 3, 2 / 3])


@pytest.mark.parametrize("n", [1, 3, 30])
def test_a_stream_that_ends_in_warm_up(n: int) -> None:
    sieve = fs.Sieve(scorer=TableScorer(), method="finesieve", total=1000)
    assert ids_of(list(sieve(make_batches(n)))) == list(range(n))
    assert sieve.stage == 1


def test_batch_size_one_and_an_empty_loader() -> None:
    sieve = small_sieve(60)
    out = list(sieve(make_batches(60, batch=1)))
    assert all(len(b["labels"]) == 1 for b in out)
    assert list(small_sieve()([])) == []


def test_a_gate_of_ones_own_gets_the_features_that_were_given() -> None:
    class Long(fs.Gate):
        def decide(self, offer: fs.Offer) -> fs.Verdict:
            return fs.Verdict((offer.need("features", self).tokens >= 0).sum(axis=1) >= 6)

    method = fs.Method("mine", Long(), fs.Open(), fs.Fixed({3: 0.0}))
    sieve = fs.Sieve(
        method=method, options=fs.SieveOptions(features=fs.token_features(), pool=50, group=1)
    )
    for batch in sieve(make_batches(200)):
        assert (batch["attention_mask"].sum(1) >= 6).all()
    assert 0 < sieve.ledger.examples.yielded < 200


def test_listeners_hear_of_every_example() -> None:
    events: list[Any] = []
    sieve = small_sieve(listeners=[events.append])
    yielded = ids_of(list(sieve(make_batches(400))))
    fate: dict[int, str] = {}
    counts: dict[str, int] = defaultdict(int)
    for e in events:
        counts[e["event"]] += 1
        if e["event"] == "open":
            fate.update(dict.fromkeys(e["ids"].tolist(), "kept"))
        if e["event"] == "pool":
            for i, w in zip(e["ids"].tolist(), e["weight"].tolist(), strict=True):
                fate[i] = "kept" if w > 0 else "dropped"
    assert sorted(fate) == list(range(400))
    assert sorted(yielded) == sorted(i for i, f in fate.items() if f == "kept")
    assert counts["stage"] == 2
