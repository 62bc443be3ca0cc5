"""Losses that come back: late, partly, or never; hosts that read ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve.scoring.protocol import Scores
from tests.conftest import Bag, TableScorer, make_batches, small_sieve


@pytest.mark.parametrize("ahead", [1, 5])
def test_reading_ahead_keeps_batches_right(ahead: int) -> None:
    """A host takes batches before it trains on the earlier ones; ids and weights ride inside."""
    batches = make_batches(640)
    model = Bag(dropout=0.0)
    method = fs.methods.registry.build("finesieve", predictor_bits=12, starts={2: 0.5, 3: 0.7})
    sieve = fs.Sieve(model, method, total=640, options=fs.SieveOptions(pool=50, group=2))
    taken: list[Any] = []
    returned: dict[int, float] = {}
    expected: dict[int, float] = {}

    def learn(offer: fs.Offer) -> None:
        if offer.stage == 1:
            returned.update(zip(offer.ids.tolist(), offer.loss.tolist(), strict=True))

    sieve.method.backward.learn = learn  # watch what comes back

    def step(batch: Any) -> None:
        bare = fs.inputs(batch)
        labels = bare.pop("labels")
        losses = F.cross_entropy(model(**bare), labels, reduction="none")
        if len(expected) < 40:
            expected.update(zip(batch["sieve_ids"].tolist(), losses.tolist(), strict=True))
        sieve.loss(losses, batch).backward()

    for batch in sieve(batches):
        taken.append(batch)
        if len(taken) > ahead:
            step(taken.pop(0))
    for batch in taken:
        step(batch)
    assert len(returned) >= 32
    for key in returned.keys() & expected.keys():
        assert returned[key] == pytest.approx(expected[key], abs=1e-6)


def test_no_losses_coming_back_is_an_error_not_a_leak() -> None:
    sieve = fs.Sieve(scorer=TableScorer(), method="finesieve")
    endless = (b for _ in range(100) for b in make_batches(400))
    with pytest.raises(fs.ConfigError, match=r"call sieve\.loss"):
        list(sieve(endless))


def test_a_host_that_takes_many_batches_before_it_trains_says_so() -> None:
    sieve = fs.Sieve(scorer=Even(), method="finesieve", options=fs.SieveOptions(read_ahead=20_000))
    stream = sieve(make_batches(24_000, batch=100))
    for _ in range(2):  # steps of 20,000 examples, and what is left
        taken = [batch for _, batch in zip(range(200), stream, strict=False)]
        for batch in taken:
            sieve.loss(torch.ones(len(batch["labels"])), batch)
    assert sieve.window.revealed == 20_000  # the last come back after the pass

    # What is decided on but was not handed out yet is not under way.
    budget = fs.methods.registry.build("finesieve", 0, budget=0.5, patience=2048, predictor_bits=12)
    sieve = fs.Sieve(
        scorer=Even(), method=budget, total=40_000, options=fs.SieveOptions(read_ahead=17_000)
    )
    stream = sieve(make_batches(40_000, batch=100))
    taken = [batch for _, batch in zip(range(170), stream, strict=False)]
    assert len(taken) == 170
    with pytest.raises(fs.ConfigError, match="read_ahead is -1"):
        fs.Sieve(scorer=Even(), options=fs.SieveOptions(read_ahead=-1))


def test_large_batches_and_losses_that_sometimes_stay_away_are_no_error() -> None:
    sieve = fs.Sieve(scorer=TableScorer(), method="finesieve")
    for batch in sieve(make_batches(21000, batch=2100)):
        sieve.loss(torch.ones(len(batch["labels"])), batch)
    sieve = fs.Sieve(scorer=Even(), method="finesieve")
    for i, batch in enumerate(sieve(make_batches(40000, batch=250))):
        if i % 3 == 0:
            sieve.loss(torch.ones(250), batch)
    assert len(sieve._flow.learning._returns) <= 16384


class Even(TableScorer):
    """All sizes alike, so that the gates stay open."""

    def size_of_loss(self, loss: Any) -> Any:
        return np.ones_like(loss)


@pytest.mark.filterwarnings("ignore:a pass is over and no loss came back")
def test_predictions_are_judged_before_they_are_learned() -> None:
    """On labels' sizes that are pure chance a predictor that peeks would look good."""
    dice = np.random.default_rng(0)

    class Chance(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            size = dice.lognormal(0, 1, len(batch["labels"])).astype(np.float32)
            return Scores(size, size)

    g = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(0, 10**9, (8, 6), generator=g),  # every token is new
            "attention_mask": torch.ones(8, 6, dtype=torch.long),
            "labels": torch.zeros(8, dtype=torch.long),
        }
        for _ in range(250)
    ]
    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    sieve = fs.Sieve(scorer=Chance(), method=method, total=2000, options=fs.SieveOptions(pool=50))
    list(sieve(batches))
    assert 0.45 < sieve.window.auc() < 0.55


def test_losses_that_never_come_back_are_noticed_when_a_pass_is_over() -> None:
    with pytest.warns(fs.errors.FinesieveWarning, match=r"call sieve\.loss"):
        list(small_sieve(6000)(make_batches(6000)))
    list(small_sieve(400)(make_batches(400)))  # too few to tell; warnings are errors in the tests
    list(small_sieve(6000, method="random")(make_batches(6000)))  # of no use to it


def test_gates_do_not_close_where_no_loss_came_back() -> None:
    """Closed by hand they would; survivors would be trained on without their weights."""
    sieve = small_sieve(total=20000)
    with pytest.raises(fs.ConfigError, match=r"gates close now, .* and no loss came back"):
        for _ in sieve(make_batches(4000, 32)):
            pass
    assert sieve.stage == 1
