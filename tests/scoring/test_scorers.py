"""Sizes against autograd, example by example; scoring leaves no trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import scores
from finesieve.scoring.mode import scoring
from tests.conftest import Bag, make_batches


def test_scoring_restores_every_mode_and_the_random_state() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.train()
    model[2].eval()  # frozen on purpose
    before, state = model[2].running_mean.clone(), torch.get_rng_state()
    with scoring(model) as inner:
        assert not any(m.training for m in inner.modules())
        out = inner(torch.randn(8, 4))
        assert not out.is_inference()  # a model may keep what it makes
        assert not out.requires_grad
        torch.rand(3)
    assert [m.training for m in model] == [True, True, False, True]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[2].running_mean, before)
    with pytest.raises(RuntimeError, match="inside"), scoring(model):
        raise RuntimeError("inside")
    assert model[1].training


def test_scoring_within_an_outer_autocast_leaves_no_weights_behind() -> None:
    """Torch before 2.10 keeps weights that were cast without a gradient."""
    model = nn.Linear(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with scoring(model) as inner:
            inner(torch.randn(8, 4))
        model(torch.randn(8, 4)).float().sum().backward()
    assert model.weight.grad is not None


def test_scoring_avoids_the_wrapper() -> None:
    model = Bag()
    with scoring(nn.DataParallel(model)) as inner:
        assert inner is model


def test_classification_scores_dicts_and_tuples_alike() -> None:
    batch = make_batches(8)[0]
    model = Bag()
    scores = fs.scores.Classification(model)(batch)
    pair = (batch["input_ids"], batch["attention_mask"], batch["labels"])
    again = fs.scores.Classification(model)(pair)
    assert np.array_equal(scores.loss, again.loss)
    model.eval()
    expected = F.cross_entropy(model(*pair[:2]), pair[2], reduction="none")
    assert scores.loss == pytest.approx(expected.detach().numpy(), abs=1e-6)


def test_scoring_runs_in_the_given_autocast() -> None:
    seen = []

    class Spy(Bag):
        def forward(self, **kind: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(**kind)

    batch = make_batches(8)[0]
    scorer = fs.scores.Classification(Spy(), autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert scorer(batch).loss.dtype == np.float32
    fs.scores.Classification(Spy())(batch)
    assert seen == [True, False]


def test_any_task_by_one_function() -> None:
    model = nn.Linear(3, 1)

    def squared(net: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (net(batch[0]).squeeze(1) - batch[1]) ** 2

    scorer = fs.scores.PerExample(model, squared, size=lambda loss: 2 * loss**0.5)
    x, y = torch.randn(6, 3), torch.randn(6)
    scores = scorer((x, y))
    for i in range(6):
        out = model(x[i : i + 1]).detach().requires_grad_()
        ((out - y[i]) ** 2).sum().backward()
        assert scores.size[i] == pytest.approx(out.grad.abs().item(), abs=1e-4)
    mean = fs.scores.PerExample(model, lambda net, b: squared(net, b).mean())
    with pytest.raises(fs.ScoreError, match="the mean over the batch; use reduction='none'"):
        mean((x, y))
    with pytest.raises(fs.ScoreError, match="gave a float"):
        fs.scores.PerExample(model, lambda net, b: 0.5)((x, y))


def test_attention_prepares_nothing_for_the_shapes_of_scoring_alone() -> None:
    model = nn.Linear(2, 2)
    for before in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(before)
        with scoring(model):
            assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_wrong_models_are_named() -> None:
    batch = make_batches(8)[0]
    with pytest.raises(fs.BatchError, match="no 'gold' in the batch"):
        fs.scores.Classification(Bag(), labels="gold")(batch)

    class Sequence(Bag):
        def forward(self, **kind: torch.Tensor) -> torch.Tensor:
            return torch.zeros(8, 5, 3)

    with pytest.raises(fs.ScoreError, match=r"expected logits \[n, classes\]"):
        fs.scores.Classification(Sequence())(batch)


def test_the_head_says_what_the_predictor_looks_at() -> None:
    """Tokens of multiple choice are [n, choices, length], which the usual features refuse."""

    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(60, 1)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.embed(input_ids).sum(dim=(2, 3))

    torch.manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(1, 60, (8, 3, 5)),
            "labels": torch.randint(0, 3, (8,)),
            "attention_mask": torch.ones(8, 3, 5, dtype=torch.long),
        }
        for _ in range(20)
    ]
    method = fs.methods.registry.build("finesieve", 0, starts={2: 0.1, 3: 0.3}, predictor_bits=10)
    sieve = fs.Sieve(
        Choosing(), method, total=160, head=fs.heads.Choice(), options=fs.SieveOptions(pool=32)
    )
    for batch in sieve(batches):
        sieve.loss(torch.rand(len(batch["labels"])), batch)
    assert sieve.stage == 3
    assert np.isfinite(sieve.window.column("predicted")).all()


class Decoder(nn.Module):
    """Keeps keys and values if its configuration says so, as transformers' decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=True)
        self.out = nn.Linear(3, 2)
        self.kept: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.append(self.config.use_cache)
        found: torch.Tensor = self.out(x)
        return found


def test_no_keys_and_values_are_kept_for_scores() -> None:
    model = nn.Sequential(Decoder(), nn.Identity())
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    scores.Classification(model)(batch)
    model(batch[0])
    assert model[0].kept == [False, True]
    with pytest.raises(fs.ScoreError):
        scores.Classification(model)((batch[0], torch.tensor([0, 1, 0, 7])))
    assert model[0].config.use_cache
