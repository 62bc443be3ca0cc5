"""What cannot be trained on: losses, labels and batches that are wrong, named with their mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows, as_drawn
from finesieve.gates.protocol import IntArray
from finesieve.gates.sampling import ThresholdSampling
from finesieve.gates.simple import Random
from finesieve.methods.method import Method
from finesieve.scoring.batches import Scored
from finesieve.scoring.protocol import Scores
from finesieve.sieve.pool import Sifter
from finesieve.stages.policy import OWN, Fixed
from tests.conftest import Bag, TableScorer, ids_of, make_batches


def test_a_mean_loss_is_named() -> None:
    sieve = fs.Sieve(method="full")
    batch = next(iter(sieve(make_batches(8))))
    with pytest.raises(fs.ScoreError, match="reduction='none'"):
        sieve.loss(torch.tensor(0.3), batch)
    with pytest.raises(fs.ScoreError, match="all dimensions but the first"):
        sieve.loss(torch.zeros(8, 4), batch)
    with pytest.raises(fs.BatchError, match="did not come from a sieve"):
        sieve.loss(torch.zeros(8), make_batches(8)[0])


class SomeNan(TableScorer):
    """NaN for tokens above a limit."""

    def __init__(self, above: int) -> None:
        super().__init__()
        self.above = above

    def __call__(self, batch: Any) -> Scores:
        scores = super().__call__(batch)
        bad = (batch["input_ids"][:, 0] > self.above).numpy()
        return Scores(np.where(bad, np.nan, scores.loss), np.where(bad, np.inf, scores.size))


def test_scored_nans_are_kept_out_and_counted() -> None:
    batches = make_batches(400)
    events: list[Any] = []
    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    sieve = fs.Sieve(
        scorer=SomeNan(96),
        method=method,
        total=400,
        options=fs.SieveOptions(pool=50, group=1, listeners=[events.append]),
    )
    seen = ids_of(list(sieve(batches)))
    tokens = torch.cat([b["input_ids"][:, 0] for b in batches])
    bad = int((tokens > 96).sum())
    assert 0 < bad <= 32
    assert sieve.ledger.examples.bad == bad
    assert not (tokens[seen] > 96).any()
    assert sum(e["kept_out"].sum() for e in events if e["event"] == "pool") == bad


def test_many_nans_stop_the_run() -> None:
    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    sieve = fs.Sieve(scorer=SomeNan(50), method=method, total=400)
    with pytest.raises(fs.ScoreError, match=r"had a loss that is NaN or infinite.*more than 1 %"):
        list(sieve(make_batches(400)))


def test_an_infinite_training_loss_leaves_the_rest_of_its_batch_intact() -> None:
    sieve = fs.Sieve(method="full")
    batch = next(iter(sieve(make_batches(4, batch=4))))
    losses = torch.tensor([1.0, float("inf"), 3.0, float("nan")], requires_grad=True)
    reduced = sieve.loss(losses, batch)
    assert reduced.item() == pytest.approx(1.0)
    reduced.backward()
    assert losses.grad.tolist() == [0.25, 0.0, 0.25, 0.0]  # as in the plain mean over the four


def test_bad_batches() -> None:
    with pytest.raises(fs.BatchError, match="without a batch dimension"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3), "flag": torch.tensor(True)}]))
    with pytest.raises(fs.BatchError, match=r"'y' is a ndarray; expected a tensor .*make it one"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3), "y": np.zeros(3)}]))
    with pytest.raises(fs.BatchError, match="'y' has 2 rows, but others have 3"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3), "y": torch.zeros(2)}]))
    with pytest.raises(fs.BatchError, match="single examples"):
        list(fs.Sieve(method="full")([3]))
    with pytest.raises(fs.BatchError, match="a dict before and a tuple now"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3)}, (torch.zeros(3),)]))
    ragged = [(torch.ones(2, 3),), (torch.ones(2, 5),)]
    random = fs.methods.registry.build("random", share=0.9)
    with pytest.raises(fs.BatchError, match=r"give pad_values=\{0: \.\.\.\}"):
        list(fs.Sieve(method=random, options=fs.SieveOptions(pool=4))(ragged))
    padded = list(
        fs.Sieve(method=random, options=fs.SieveOptions(pool=4, pad_values={0: 7}, group=1))(ragged)
    )
    assert sum((b[0] == 7).sum().item() for b in padded) > 0


def test_a_method_that_scores_needs_a_scorer() -> None:
    with pytest.raises(fs.ConfigError, match="give the sieve the model"):
        fs.Sieve(method="finesieve")
    with pytest.raises(fs.ConfigError, match="pool is 0"):
        fs.Sieve(method="full", options=fs.SieveOptions(pool=0))


def test_labels_that_cannot_be_scored_are_named() -> None:
    scorer = fs.scores.Classification(Bag())
    batch = make_batches(8)[0]
    with pytest.raises(fs.ScoreError, match="go from -100 to"):
        scorer(dict(batch, labels=torch.full((8,), -100)))
    with pytest.raises(fs.ScoreError, match="the model has 2 classes"):
        scorer(dict(batch, labels=torch.full((8,), 5)))
    with pytest.raises(fs.ScoreError, match="one class an example"):
        scorer(dict(batch, labels=torch.rand(8)))


def test_whatever_is_not_finite_adds_nothing() -> None:
    from finesieve.sieve.weights import weighted_mean

    losses = torch.tensor([1.0, float("inf"), -float("inf"), float("nan"), 4.0])
    losses.requires_grad_()
    found = weighted_mean(losses, torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0]))
    assert found.item() == pytest.approx(9.0 / 5.0)
    found.backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([0.2, 0.0, 0.0, 0.0, 0.4])


def test_examples_without_a_finite_loss_stand_for_nothing_in_stage_3() -> None:
    """Weighted survivors estimate the mean of those that have one, not a smaller mean."""
    dice = np.random.default_rng(0)
    size = dice.lognormal(-1, 1, 256).astype(np.float32)
    bad = np.arange(256) < 32
    offered = size.copy()
    offered[bad] = np.nan
    rows = Rows(
        {"labels": torch.zeros(256, dtype=torch.long)},
        np.ones(256, np.int64),
        np.arange(256),
        *as_drawn(256),
    )
    forward, backward = Random(0.5, seed=1), ThresholdSampling(0.25, 0.05, seed=2)
    method = Method("test", forward, backward, Fixed({3: 0.0}))
    codec = Codec()
    codec.note(rows.columns)

    def score(rows: Rows, passed: IntArray) -> Scored:
        return Scored(offered[passed], offered[passed], None)

    sifter = Sifter(method, codec, score, None)
    total = count = 0.0
    for _ in range(300):
        found = sifter.closed(rows, 3, 0.3, OWN)
        kept = found.survivors
        assert found.p is not None
        total += float((kept.weights * size[kept.ids]).sum())
        count += float(found.p.sum())
    assert total / count == pytest.approx(float(size[~bad].mean()), rel=0.02)
