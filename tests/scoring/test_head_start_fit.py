"""The fit of the last layer: what it finds, how well, and for which tasks."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import heads, scores
from finesieve.scoring.head_start import STRENGTHS, start_head
from tests.scoring.kit import Given, layer


def test_the_fit_is_multinomial_logistic_regression() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    model, found = layer()
    came = start_head(found)
    assert came.fitted, came
    x = found.inputs[:, 0].numpy()
    scale = float(np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()))
    # Theirs: C times the sum of the losses + |W|^2 / 2, on the same centred and scaled inputs.
    twin = linear.LogisticRegression(C=1.0 / (came.strength * len(x)), max_iter=5000, tol=1e-8)
    twin.fit((x - x.mean(0)) / scale, found.targets["labels"].numpy())
    theirs = twin.predict_proba((x - x.mean(0)) / scale)
    ours = F.linear(found.inputs[:, 0], model.head.weight, model.head.bias).softmax(1)
    assert np.abs(ours.detach().numpy() - theirs).max() < 2e-3


def test_its_strength_is_the_best_for_examples_that_it_did_not_see() -> None:
    _, found = layer()
    came = start_head(found)
    assert came.strength in STRENGTHS
    assert came.after < 0.7 * came.frequencies < 0.9 * came.before
    assert came.frequencies == pytest.approx(np.log(3), abs=0.05)
    # Labels that the inputs say nothing of: strongly regularised or left alone, never fitted well.
    _, noise = layer()
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    noise.targets["labels"] = noise.targets["labels"][shuffled]
    came = start_head(noise)
    assert not came.fitted or came.strength >= 0.03


def test_without_a_bias_there_is_no_constant_to_take_the_mean_back_in() -> None:
    model, found = layer(bias=False)
    before = found.losses(model.head.weight, None).mean()
    assert start_head(found).fitted
    assert found.losses(model.head.weight, None).mean() < 0.8 * before


def tasks() -> Iterator[Any]:
    """Task, model, batch: targets that follow from the features in each task's own way."""
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(160, 8, generator=dice)
    mix = torch.randn(8, 4, generator=dice)
    classes, values = (x @ mix).argmax(1), x @ mix
    yield "single label", heads.SingleLabel(), 4, {"x": x, "labels": classes}
    weights = torch.tensor([1.0, 4.0, 1.0, 1.0])
    weighed = heads.SingleLabel(class_weights=weights)
    yield "class weights", weighed, 4, {"x": x, "labels": classes}
    yield "smoothed", heads.SingleLabel(smoothing=0.2), 4, {"x": x, "labels": classes}
    yield "multi-label", heads.MultiLabel(), 4, {"x": x, "labels": (values > 0).float()}
    yield "regression", heads.Regression(), 1, {"x": x, "labels": values[:, 0] + 7.0}
    long = torch.randn(160, 5, 8, generator=dice)
    each = (long @ mix).argmax(2)
    each[:, 3:] = -100
    yield "tokens", heads.Tokens(), 4, {"x": long, "labels": each}
    choice = (long @ mix)[:, :, 0].argmax(1)
    yield "choice", heads.Choice(), 1, {"x": long, "labels": choice}


@pytest.mark.parametrize(
    ("head", "out", "batch"), [t[1:] for t in tasks()], ids=[t[0] for t in tasks()]
)
def test_every_task_is_fitted_with_its_own_loss(head: heads.Head, out: int, batch: Any) -> None:
    class Chosen(Given):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x).logits
            return SimpleNamespace(
                logits=logits.squeeze(2) if isinstance(head, heads.Choice) else logits
            )

    model = Chosen(8, out)
    task = scores.Task(model, head)
    before = float(task(batch).loss.mean())
    found = task.last_layer(batch)
    assert found is not None
    assert found.layer is model.head
    # The layer's loss, computed from its inputs, is the model's.
    alike = found.losses(model.head.weight, model.head.bias)
    assert torch.allclose(alike, torch.from_numpy(task(batch).loss), atol=1e-5)
    came = start_head(found)
    assert came.fitted, came
    assert task(batch).loss.mean() < 0.75 * before
    # And it is a minimum of that very loss: every class weight and smoothing counts.
    losses = found.losses(model.head.weight, model.head.bias).mean()
    losses.backward()
    inputs = found.inputs.reshape(-1, 8)
    scale = (inputs - inputs.mean(0)).square().sum(1).mean()
    pull = came.strength * scale * model.head.weight.detach()
    assert torch.allclose(model.head.weight.grad, -pull, atol=2e-3 * float(losses.detach()) + 1e-4)


def test_batches_of_other_lengths_are_padded_with_places_that_do_not_count() -> None:
    model = Given(8, 4)
    head = heads.Tokens()
    dice = torch.Generator().manual_seed(3)
    mix = torch.randn(8, 4, generator=dice)
    batches = []
    for width in (2, 7, 4, 5):
        x = torch.randn(32, width, 8, generator=dice)
        mask = torch.ones(32, width, dtype=torch.long)
        batches.append({"x": x, "labels": (x @ mix).argmax(2), "attention_mask": mask})

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor, attention_mask: Tensor) -> Any:
            return self.inner(x)

    sieve = fs.Sieve(Masked(), "selective-backprop", total=128, head_start=128, head=head)
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert sieve.head_start.fitted, sieve.head_start
    right = torch.cat([(model(b["x"]).logits.argmax(2) == b["labels"]).flatten() for b in batches])
    assert right.float().mean() > 0.85


def test_decoders_that_classify_are_read_at_one_place_of_each_text() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=60,
            n_positions=32,
            n_embd=16,
            n_layer=1,
            n_head=2,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    ).eval()
    batch = {"input_ids": torch.randint(2, 60, (8, 9)), "labels": torch.arange(8) % 3}
    batch["input_ids"][3:, 6:] = 0
    batch["attention_mask"] = (batch["input_ids"] != 0).long()
    found = scores.Task(net, heads.SingleLabel()).last_layer(batch)
    assert found is not None
    assert found.layer is net.score
    with torch.no_grad():
        logits = net(**{k: v for k, v in batch.items() if k != "labels"}).logits
    assert torch.allclose(net.score(found.inputs[:, 0]), logits, atol=1e-6)


# ---- classes that none of the examples is of


def lacking(kind: str, missing: bool) -> tuple[Given, Any, Any]:
    """A model, its task and a batch of 200 examples of five classes, the last of which may be
    missing; the first two inputs tell of it."""
    dice = torch.Generator().manual_seed(0)
    shape = (200, 3) if kind == "tokens" else (200,)
    labels = torch.randint(0, 4 if missing else 5, shape, generator=dice)
    x = 3.0 * F.one_hot(labels, 8).float() + torch.randn(*shape, 8, generator=dice)
    head: Any = heads.SingleLabel()
    if kind == "tokens":
        head = heads.Tokens()
        labels[:, 2] = torch.where(torch.arange(200) % 2 == 0, -100, labels[:, 2])
    elif kind == "labels":
        head, labels = heads.MultiLabel(), F.one_hot(labels, 5).float()
    return Given(8, 5), head, {"x": x, "labels": labels}


@pytest.mark.parametrize("kind", ["classes", "tokens", "labels"])
def test_a_class_that_was_not_met_keeps_a_chance(kind: str) -> None:
    model, head, batch = lacking(kind, missing=True)
    found = scores.Task(model, head).last_layer(batch)
    assert found is not None
    assert start_head(found).fitted
    assert not model.head.weight[4].any()  # nothing is known of what tells of it
    assert model.head.weight[:4].abs().min() > 0.0
    logits = model(batch["x"]).logits.detach()
    p = logits.sigmoid() if kind == "labels" else logits.softmax(-1)
    targets = batch["labels"] != -100 if kind == "tokens" else torch.ones(200, dtype=torch.bool)
    # As likely, all in all, as half an observation: over so many targets.
    expected = 0.5 * (1.0 - F.softmax(model.head.bias.detach(), 0)[4]) if kind != "labels" else 0.5
    assert float(p[targets][:, 4].sum()) == pytest.approx(float(expected), rel=0.05)


@pytest.mark.parametrize("kind", ["classes", "tokens", "labels"])
def test_where_all_classes_were_met_nothing_is_added(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted() -> Tensor:
        model, head, batch = lacking(kind, missing=False)
        found = scores.Task(model, head).last_layer(batch)
        assert start_head(found).fitted
        return model.head.weight.detach()

    with_it = fitted()
    monkeypatch.setattr(type(lacking(kind, False)[1]), "unmet", fs.heads.Head.unmet)
    assert torch.equal(with_it, fitted())


def test_what_has_no_classes_has_none_that_was_not_met() -> None:
    targets = {"labels": torch.zeros(4)}
    assert heads.Regression().unmet(targets, 3) is None
    assert heads.Choice().unmet({"labels": torch.zeros(4, dtype=torch.long)}, 1) is None
