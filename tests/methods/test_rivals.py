"""Rivals' gates: each against its definition; all of them through the laws."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve import (
    ConfigError,
    Fixed,
    Gate,
    Method,
    Offer,
    Open,
    Random,
    checks,
    methods,
)
from finesieve.methods.baselines.infobatch import InfoBatch
from finesieve.methods.baselines.loss_rules import LossSampling, SelectiveBackprop, TopLoss
from finesieve.methods.baselines.rho_loss import Reducible
from tests.conftest import TableScorer, make_batches

GATES = {
    "selective": lambda: SelectiveBackprop(2.0),
    "top": lambda: TopLoss(0.3),
    "sampling": lambda: LossSampling(0.3),
    "infobatch": lambda: InfoBatch(0.5),
    "rho": lambda: Reducible(0.3),
}


def offer(loss: np.ndarray) -> Offer:
    return Offer(np.arange(len(loss)), loss=loss.astype(np.float32), size=np.ones(len(loss)))


@pytest.mark.parametrize("law", checks.LAWS)
@pytest.mark.parametrize("name", GATES)
def test_every_law(law: str, name: str) -> None:
    checks.LAWS[law](GATES[name])


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_selective_backprop_keeps_percentile_to_the_beta(beta: float) -> None:
    """Against the definition, percentile by percentile, over many decisions."""
    gate: Gate = SelectiveBackprop(beta, window=500)
    history = np.random.default_rng(0).random(700)
    gate.learn(offer(history))
    known = history[-500:].astype(np.float32)
    asked = np.asarray([0.1, 0.5, 0.9, 2.0])
    kept = np.mean([gate.decide(offer(asked)).keep for _ in range(3000)], axis=0)
    naive = [float(np.mean(known <= x)) ** beta for x in asked.astype(np.float32)]
    assert np.allclose(kept, naive, atol=0.04)


def test_selective_backprop_keeps_one_in_beta_plus_one() -> None:
    gate = SelectiveBackprop(2.0)
    dice = np.random.default_rng(1)
    kept = []
    for _ in range(60):
        pool = offer(dice.random(256))
        kept.append(gate.decide(pool).keep.mean())
        gate.learn(pool)
    assert kept[0] == 1.0  # no history yet
    assert np.mean(kept[10:]) == pytest.approx(1 / 3, abs=0.02)


def test_top_loss_keeps_the_highest() -> None:
    loss = np.random.default_rng(2).random(100)
    keep = TopLoss(0.25).decide(offer(loss)).keep
    assert keep.sum() == 25
    assert loss[keep].min() > loss[~keep].max()
    assert TopLoss(0.5).decide(offer(np.zeros(4))).keep.sum() == 2  # ties


def test_loss_sampling_goes_by_the_loss_and_not_by_the_size() -> None:
    loss = np.asarray([0.1] * 50 + [1.0] * 50)
    p = LossSampling(0.3, floor=0.0).decide(offer(loss)).probability
    assert p is not None
    assert p[50:].mean() / p[:50].mean() == pytest.approx(10, rel=1e-3)


def test_infobatch_leaves_out_a_share_of_the_easy_and_weighs_the_rest_of_them() -> None:
    gate = InfoBatch(0.25)
    loss = np.asarray([0.1] * 60 + [1.0] * 40)
    assert gate.decide(offer(loss)).keep.all()  # nothing known: nothing is left out
    gate.learn(offer(loss))
    verdicts = [gate.decide(offer(np.zeros(100))) for _ in range(400)]
    kept = np.mean([v.keep for v in verdicts], axis=0)
    assert kept[60:].min() == 1.0
    assert kept[:60].mean() == pytest.approx(0.75, abs=0.02)
    assert verdicts[0].probability is not None
    assert verdicts[0].probability.tolist() == [0.75] * 60 + [1.0] * 40
    new = fs.Offer(np.arange(100, 103))
    assert gate.decide(new).keep.all()  # never met


def passes(method: Method, count: int) -> tuple[fs.Sieve, list[np.ndarray]]:
    """Ids yielded in each pass over 400 examples with ids of their own; the loss of an example
    is its first token."""
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=method,
        total=400 * count,
        options=fs.SieveOptions(pool=100, id_key="example"),
    )
    batches = make_batches(400)
    for i, batch in enumerate(batches):
        batch["example"] = np.arange(len(batch["labels"])) + i * len(batches[0]["labels"])
        batch["example"] = torch.from_numpy(batch["example"])
    seen = []
    for _ in range(count):
        ids = []
        for batch in sieve(batches):
            ids.append(batch["sieve_ids"].numpy())
            sieve.loss(batch["input_ids"][:, 0].float().requires_grad_(), batch)
        seen.append(np.concatenate(ids))
    return sieve, seen


def test_infobatch_over_passes() -> None:
    """First pass on everything, then the easy half thinned out, the last stretch on everything."""
    sieve, seen = passes(methods.registry.build("infobatch", share=0.5, until=0.75), 4)
    first = np.concatenate([b["input_ids"][:, 0].numpy() for b in make_batches(400)])
    easy = first < first.mean()
    assert len(seen[0]) == len(seen[3]) == 400
    for ids in seen[1:3]:
        assert (~easy).sum() <= len(ids) < 400 - 0.35 * easy.sum()
        assert set(np.flatnonzero(~easy)) <= set(ids.tolist())
    assert sieve.ledger.examples.scored == 0
    assert [m["stage"] for m in sieve.moves] == [3, 1]
    with pytest.raises(ConfigError, match="`total`"):
        list(fs.Sieve(method=methods.registry.build("infobatch"))(make_batches(40)))


def test_a_gate_of_ones_own_learns_from_training_losses_whatever_the_stages() -> None:
    """With stages that do not ask for losses themselves."""
    mine = Method("mine", InfoBatch(0.5), Open(), Fixed({3: 0.0}))
    assert mine.learns
    assert not methods.registry.build("random").learns
    assert not methods.registry.build("full").learns
    by_itself = methods.registry.build("finesieve", budget=None, train=None)
    assert by_itself.learns
    assert by_itself.name == "finesieve"
    _, seen = passes(mine, 2)
    assert len(seen[0]) == 400
    assert len(seen[1]) < 350


def test_rho_loss_goes_by_the_reducible_part() -> None:
    gate = Reducible(0.5)
    gate.refer(np.arange(4), np.asarray([0.0, 2.0, 0.0, 0.9], dtype=np.float32))
    keep = gate.decide(offer(np.asarray([1.0, 2.5, 0.2, 1.0]))).keep
    assert keep.tolist() == [True, True, False, False]  # 1.0, 0.5, 0.2, 0.1
    twin = Reducible(0.5)
    twin.load_state_dict(gate.state_dict())
    assert twin.decide(offer(np.asarray([1.0, 2.5, 0.2, 1.0]))).keep.tolist() == keep.tolist()


def test_the_authors_scripts_train_on_single_examples_in_stage_3() -> None:
    method = methods.registry.build("authors", warmup=0.1, window=100, log_loss=9.0)
    assert method.schedule_by == "steps"
    sieve = fs.Sieve(
        scorer=TableScorer(), method=method, total=3000, options=fs.SieveOptions(pool=100)
    )
    sizes: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
    for batch in sieve(make_batches(3000)):
        sizes[sieve.stage].add(len(batch["labels"]))
        first = batch["input_ids"][:, 0].float()
        sieve.loss(((first / 100 + 0.01) ** 3 * 2).requires_grad_(), batch)
    assert sieve.stage == 3
    assert sizes[1] == {8}
    assert sizes[3] <= {1, 8}
    assert 1 in sizes[3]


@pytest.mark.parametrize("name", ["selective-backprop", "top-loss", "loss-sampling", "rho-loss"])
def test_they_are_methods_by_name(name: str) -> None:
    made = methods.registry.build(name, 3)
    assert isinstance(made, Method)
    assert made.scores
    with pytest.raises(ConfigError):
        methods.registry.build(name, 3, warmup=2.0)


def test_every_method_has_its_card() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "methods.md").read_text(
        encoding="utf-8"
    )
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.M))
    assert rows == set(methods.REGISTRY)
    headings = set(re.findall(r"[a-z-]+", " ".join(re.findall(r"^## (.*)$", page, re.M))))
    assert set(methods.REGISTRY) <= headings


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="beta"):
        SelectiveBackprop(0)
    with pytest.raises(ConfigError, match="share"):
        TopLoss(0)
    with pytest.raises(ConfigError, match="must keep some"):
        InfoBatch(1.0)
    with pytest.raises(ConfigError, match="expected a finesieve Method"):
        methods.registry.build("builtins:dict")
    with pytest.raises(ConfigError, match="nowhere"):
        methods.registry.build("nowhere:nothing")


def test_what_a_method_needs_is_told_by_its_parts_not_by_its_name() -> None:
    built = {name: methods.registry.build(name, 0) for name in methods.REGISTRY}
    assert [name for name, m in built.items() if not m.filters] == ["full"]
    assert [name for name, m in built.items() if m.needs_ids] == ["infobatch"]
    assert [name for name, m in built.items() if m.needs_reference] == ["rho-loss"]
    assert {name: m.subset for name, m in built.items() if m.subset} == {"random": 0.3}
    mine = Method("mine", Random(0.4), Open(), Fixed({3: 0.0}))
    assert (mine.filters, mine.subset) == (True, 0.4)
    assert Method("random", Random(0.4), Open(), Fixed({3: 0.1})).subset is None  # warms up first
