"""The scorer is tried before the first step: a misfit is an error, a fit leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve.costs.pace import Pace
from finesieve.scoring.protocol import Scores
from finesieve.scoring.scorers import Classification
from tests.conftest import Bag, TableScorer, by_hand, make_batches, small_sieve


def test_a_scorer_may_be_a_plain_function() -> None:
    """The size is the loss then, where losses come back from the training step."""
    sieve = fs.Sieve(
        scorer=lambda batch: TableScorer()(batch),
        method=by_hand(),
        total=400,
        options=fs.SieveOptions(pool=50),
    )
    for batch in sieve(make_batches(400)):
        sieve.loss(torch.full((len(batch["labels"]),), 0.7), batch)
    assert sieve.stage == 3
    assert np.isclose(sieve.window.column("size"), 0.7).any()


class Unsteady(Classification):
    """Scores rightly, and draws random numbers of every kind."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.calls: list[int] = []

    def __call__(self, batch: Any) -> Scores:
        random.random()
        np.random.random()
        torch.rand(1)
        self.calls.append(len(batch["labels"]))
        return super().__call__(batch)


def test_a_scorer_that_does_not_fit_is_an_error_before_the_first_step() -> None:
    """The same one as when gates close."""
    batches = [{**b, "domain": torch.zeros(len(b["labels"]))} for b in make_batches(400)]
    said = []
    for starts in ({2: 0.5}, {2: 0.0}):
        sieve = small_sieve(
            scorer=Classification(Bag()),
            method=fs.methods.registry.build("finesieve", starts=starts),
        )
        with pytest.raises(TypeError, match="unexpected keyword argument 'domain'") as error:
            next(sieve(batches))
        said.append(str(error.value))
        assert sieve.ledger.examples.yielded == 0
    assert said[0] == said[1]

    def means(batch: Any) -> Scores:
        return Scores(np.zeros(1, np.float32), np.zeros(1, np.float32))

    with pytest.raises(fs.ScoreError, match="sizes for 2 examples"):
        next(small_sieve(scorer=means)(make_batches(400)))


def test_trying_the_scorer_leaves_no_trace() -> None:
    model = Bag()
    model.embed.eval()  # on purpose
    scorer = Unsteady(model)
    sieve = small_sieve(scorer=scorer)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    stream = sieve(make_batches(400))
    next(stream)
    assert scorer.calls == [2]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert (model.training, model.drop.training, model.embed.training) == (True, True, False)
    assert sieve.ledger.examples.scored == sieve.ledger.tokens.scored == 0
    assert sieve.ledger.seconds["score"] == 0.0
    assert sieve.meter.paces["score"].state_dict() == Pace().state_dict()
    next(stream)
    assert scorer.calls == [2]  # once

    unscored = Unsteady(model)
    next(small_sieve(scorer=unscored, method="random")(make_batches(400)))
    assert unscored.calls == []
    again = small_sieve(scorer=unscored)
    again.load_state_dict(sieve.state_dict())
    next(again(make_batches(400)))
    assert unscored.calls == []


def test_a_scorer_that_ran_for_the_head_start_is_not_tried_again() -> None:
    for scorer, tried in ((Unsteady(Bag()), []), (TableScorer(), [2])):
        sieve = small_sieve(scorer=scorer, head_start=32)
        next(sieve(make_batches(400)))
        assert scorer.calls == tried
