"""Scoring forwards fit into memory: a limit in padded tokens, and what happens beyond it."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods
from finesieve.batches.carry import inputs
from finesieve.scoring.cuts import cut_by_length
from finesieve.scoring.protocol import Scores
from tests.conftest import Bag, TableScorer, make_batches, small_sieve


def cost(cuts: list[slice], lengths: list[int], overhead: float) -> float:
    return sum(overhead + (c.stop - c.start) * lengths[c.stop - 1] for c in cuts)


@pytest.mark.parametrize("budget", [30.0, 60.0, 1000.0])
def test_cuts_keep_to_the_budget_and_are_the_cheapest_that_do(budget: float) -> None:
    """Against a search of all ways to cut nine examples."""
    dice = np.random.default_rng(0)
    for most in (4, 9):
        lengths = sorted(dice.integers(2, 20, 9).tolist())
        cuts = cut_by_length(lengths, most, 10.0, budget)
        assert [c.start for c in cuts] == [0, *(c.stop for c in cuts[:-1])]
        assert cuts[-1].stop == 9
        ways = []
        for mask in range(2**8):
            ends = [i + 1 for i in range(8) if mask >> i & 1] + [9]
            way = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
            sizes = [(c.stop - c.start, lengths[c.stop - 1]) for c in way]
            if all(n <= most and (n == 1 or n * width <= budget) for n, width in sizes):
                ways.append(cost(way, lengths, 10.0))
        assert cost(cuts, lengths, 10.0) == min(ways)


class Words(nn.Module):
    """A causal model of so many words, and the padded tokens of the forwards that it made."""

    def __init__(self, words: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(128, 4), nn.Linear(4, words)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            self.seen.append(tuple(input_ids.shape))
        logits: Tensor = self.out(self.embed(input_ids))
        return logits


@pytest.mark.parametrize("by_function", [False, True])
@pytest.mark.parametrize(("words", "room"), [(1024, 2), (8, 8)])
def test_a_scoring_forward_has_few_more_tokens_than_a_training_batch(
    words: int, room: int, by_function: bool
) -> None:
    """Batches of one, as memory forces: with a large vocabulary the logits are what fills it."""
    model = Words(words)
    method = methods.registry.build("finesieve", 0, starts={2: 0.1}, predictor_bits=10)
    batches = [
        {**b, "labels": b["input_ids"] % words} for b in make_batches(160, batch=1, longest=12)
    ]
    head = fs.heads.Tokens(shift=True)

    def each(net: nn.Module, batch: Any) -> Tensor:
        return head.losses(net(batch["input_ids"], batch["attention_mask"]), batch)

    sieve = fs.Sieve(
        model,
        method,
        scorer=fs.scores.PerExample(model, each) if by_function else fs.scores.Task(model, head),
        total=160,
    )
    for batch in sieve(batches):
        sieve.loss(torch.rand(len(batch["labels"])), batch)
    tokens = [n * width for n, width in model.seen]
    assert max(tokens) <= room * 12
    assert max(tokens) > room * 6  # and is not smaller than it has to be
    assert sum(n for n, _ in model.seen) >= sieve.ledger.examples.scored > 0


class Tight(Bag):
    """Runs out of memory in forwards without gradient of more than so many examples."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.tried, self.made = most, 0, 0

    def forward(self, *given: Any, **columns: Any) -> Tensor:
        n = len(given[0] if given else columns["input_ids"])
        if not torch.is_grad_enabled():
            if n > self.most:
                self.tried += 1
                raise torch.OutOfMemoryError("out of memory")
            self.made += n
        out: Tensor = super().forward(*given, **columns)
        return out


def trained(model: Tight, **options: Any) -> tuple[fs.Sieve, list[Any]]:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    method = methods.registry.build(
        "finesieve", 0, starts={2: 0.2, 3: 0.6}, predictor_bits=10, cost_ratio=0.3
    )
    sieve = fs.Sieve(
        model, method, total=480, seed=0, options=fs.SieveOptions(pool=96, group=2, **options)
    )
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.1), []
    for batch in sieve(make_batches(480, batch=16)):
        given = {k: v for k, v in inputs(batch).items() if k != "labels"}
        losses = F.cross_entropy(model(**given), batch["labels"], reduction="none")
        sieve.loss(losses, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append((batch["sieve_ids"].tolist(), batch["sieve_weights"]))
    return sieve, seen


def test_running_out_of_memory_leaves_no_trace() -> None:
    plain, expected = trained(Tight(10_000))
    model = Tight(20)
    tight, found = trained(model)
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]  # nothing lost, none twice
    for (_, a), (_, b) in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4)
    assert tight.ledger.examples == plain.ledger.examples
    assert tight.ledger.tokens == plain.ledger.tokens
    assert 0 < model.tried <= 3  # remembered: half of it is the limit from then on


def test_the_limit_is_remembered_in_a_saved_state() -> None:
    tight, _ = trained(Tight(20))
    again = fs.Sieve(
        Tight(20),
        methods.registry.build(
            "finesieve", 0, starts={2: 0.2, 3: 0.6}, predictor_bits=10, cost_ratio=0.3
        ),
        total=480,
        seed=0,
        options=fs.SieveOptions(pool=96, group=2),
    )
    again.load_state_dict(tight.state_dict())
    assert again._flow.scoring.budget == tight._flow.scoring.budget < 20 * 12


def test_fixed_sizes_are_halved() -> None:
    model = Tight(20)
    sieve, _ = trained(model, lengths=[6, 12], scoring_batch=32)
    assert sieve.ledger.examples.scored > 0
    assert 0 < model.tried <= 1


def test_one_example_that_is_too_large_is_an_error_that_says_so() -> None:
    with pytest.raises(fs.ScoreError, match=r"one example of \d+ tokens.*out of memory"):
        trained(Tight(0))


# ---- what a model may give, and keep


class Own(nn.Module):
    """Gives a dict, or a tuple, with a loss before the logits if it was given labels."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.net, self.form = Bag(), form

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Any = None) -> Any:
        logits = self.net(input_ids, attention_mask)
        found = {"logits": logits}
        if labels is not None:
            found = {"loss": F.cross_entropy(logits, labels), **found}
        return found if self.form == "dict" else tuple(found.values())


@pytest.mark.parametrize("form", ["dict", "tuple"])
@pytest.mark.parametrize("with_loss", [False, True])
def test_outputs_may_be_dicts_or_tuples(form: str, with_loss: bool) -> None:
    torch.manual_seed(0)
    batch, model = make_batches(8)[0], Own(form).eval()
    expected = F.cross_entropy(
        model.net(batch["input_ids"], batch["attention_mask"]), batch["labels"], reduction="none"
    )
    head = fs.heads.SingleLabel()
    out = model(**batch) if with_loss else model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(head.losses(out, batch), expected)
    scored = fs.scores.Task(model, head)(batch)
    assert np.allclose(scored.loss, expected.detach().numpy(), atol=1e-6)


def test_a_dict_without_logits_is_refused_with_what_it_has() -> None:
    with pytest.raises(fs.ScoreError, match=r"dict with \['scores'\]; expected logits"):
        fs.heads.SingleLabel().losses({"scores": torch.zeros(2, 2)}, {"labels": torch.zeros(2)})


class Tables(nn.Module):
    """Keeps tables for the longest text so far, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(128, 4), nn.Linear(4, 2)
        self.table = torch.zeros(0, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if input_ids.shape[1] > len(self.table):
            self.table = torch.arange(1.0, input_ids.shape[1] + 1)[:, None].repeat(1, 4).log1p()
        hidden = self.embed(input_ids) * self.table[: input_ids.shape[1]]
        out: Tensor = self.out((hidden * attention_mask[..., None]).sum(1))
        return out


def test_a_model_may_keep_what_a_scoring_forward_made() -> None:
    model, batch = Tables(), make_batches(8)[0]
    fs.scores.Classification(model)(batch)
    assert len(model.table)
    losses = F.cross_entropy(model(batch["input_ids"], batch["attention_mask"]), batch["labels"])
    losses.backward()
    assert model.embed.weight.grad is not None


class Kept(TableScorer):
    """Gives what frozen layers put out, and looks whether what it gave before is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def __call__(self, batch: Any) -> Scores:
        self.alive.append(sum(one() is not None for one in self.given))
        found = super().__call__(batch)
        prefix = torch.ones(*batch["input_ids"].shape, 4)
        self.given.append(weakref.ref(prefix))
        return Scores(found.loss, found.size, prefix)


def test_what_frozen_layers_put_out_is_held_once() -> None:
    """In the column that goes with the rows, and not in the scores beside it."""
    scorer = Kept()
    sieve = small_sieve(scorer=scorer, scoring_batch=10, head_start=0)
    for batch in sieve(make_batches(400)):
        sieve.observe(torch.ones(len(batch["labels"])), batch)
    assert len(scorer.alive) > 20
    assert max(scorer.alive) <= 1  # the last one at the most
