"""Through the Trainer: every task that a model of Hugging Face's tells, any other by a function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import finesieve as fs
from finesieve import heads

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import BertConfig, Trainer  # noqa: E402

from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    SMALL,
    Data,
    closed,
    collate,
    model,
    squared,
    trainer,
)


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.EmbeddingBag(60, 8), nn.Linear(8, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kw: Tensor) -> Any:
        return {"logits": self.out(self.embed(input_ids))}


def test_a_function_that_does_not_fit_is_found_out_before_the_first_step(tmp_path: Path) -> None:
    def losses(net: Any, batch: Any) -> Tensor:
        return net(**batch).loss  # of the whole batch

    host = trainer(tmp_path)
    attached = hf.attach(host, closed(starts={}), losses=losses, **OPTIONS)
    with pytest.raises(fs.ScoreError, match="use reduction='none'"):
        host.train()
    assert host.state.global_step == 0
    assert attached.sieve is not None
    assert attached.sieve.ledger.examples.yielded == 0


def test_any_task_by_one_function(tmp_path: Path) -> None:
    host = trainer(tmp_path, Regressor(), Data(300, lambda i, ids: float(ids[0] > 30)))
    with pytest.raises(fs.ConfigError, match="Regressor tells no task"):
        hf.attach(host)
    attached = hf.attach(host, closed(), losses=squared, **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    assert all(math.isfinite(h["loss"]) for h in host.state.log_history if "loss" in h)

    wrong = trainer(tmp_path, Regressor(), Data(300, lambda i, ids: float(ids[0] > 30)))
    hf.attach(wrong, closed(), losses=lambda net, b: squared(net, b).mean(), **OPTIONS)
    with pytest.raises(fs.ScoreError, match="the mean over the batch; use reduction='none'"):
        wrong.train()


def test_a_size_of_ones_own_goes_with_the_loss_of_ones_own(tmp_path: Path) -> None:
    def host(folder: str) -> Trainer:
        data = Data(300, lambda i, ids: float(ids[0] > 30))
        return trainer(tmp_path / folder, Regressor(), data)

    def root(loss: Any) -> Any:
        return 2 * np.sqrt(loss)

    with pytest.raises(fs.ConfigError, match="goes with losses="):
        hf.attach(host("none"), closed(), head=fs.heads.SingleLabel(), size=root, **OPTIONS)
    for size in (root, None):
        own = host(str(size is None))
        attached = hf.attach(own, closed(), losses=squared, size=size, **OPTIONS)
        own.train()
        assert attached.sieve is not None
        window = attached.sieve.window
        loss = window.column("loss")
        assert len(loss) > 200
        wanted = loss if size is None else root(loss)
        np.testing.assert_allclose(window.column("size"), wanted, rtol=1e-5)


def tasks() -> dict[str, Any]:
    """name -> (model, data): every task that a Hugging Face model class tells."""
    t = transformers
    bert, dice = BertConfig(**SMALL, num_labels=4), np.random.default_rng(0)
    multi = BertConfig(**SMALL, num_labels=4, problem_type="multi_label_classification")
    gpt = t.GPT2Config(vocab_size=60, n_positions=40, n_embd=16, n_layer=1, n_head=2)
    t5 = t.T5Config(
        vocab_size=60,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )

    def prompted(i: int, ids: Tensor) -> Tensor:
        return torch.where(torch.arange(len(ids)) < 2, -100, ids)

    return {
        "classes": (t.BertForSequenceClassification(bert), Data(200, lambda i, x: int(x[0]) % 4)),
        "labels": (
            t.BertForSequenceClassification(multi),
            Data(200, lambda i, x: torch.tensor([float(int(x[0]) % k == 0) for k in (2, 3, 5, 7)])),
        ),
        "regression": (
            t.BertForSequenceClassification(BertConfig(**SMALL, num_labels=1)),
            Data(200, lambda i, x: float(x[0]) / 60),
        ),
        "tokens": (t.BertForTokenClassification(bert), Data(200, lambda i, x: x % 4)),
        "spans": (
            t.BertForQuestionAnswering(BertConfig(**SMALL)),
            Data(
                200,
                start_positions=lambda i, x: int(x[0]) % 4,
                end_positions=lambda i, x: int(x[0]) % 4,
            ),
        ),
        "causal": (t.GPT2LMHeadModel(gpt), Data(200, prompted)),
        "sequences": (t.T5ForConditionalGeneration(t5), Data(200, lambda i, x: x % 7 + 1)),
        "choices": (t.BertForMultipleChoice(BertConfig(**SMALL)), dice),
    }


@pytest.mark.parametrize(
    "name", ["classes", "labels", "regression", "tokens", "spans", "causal", "sequences", "choices"]
)
def test_every_task(tmp_path: Path, name: str) -> None:
    """Scored and trained on by the head; with open gates the loss is the model's own."""
    torch.manual_seed(0)
    net, data = tasks()[name]
    host = trainer(
        tmp_path, net, None if name == "choices" else data, num_train_epochs=1, logging_steps=1
    )
    if name == "choices":
        rows = Data(600)
        host.train_dataset = [rows[3 * i] | {"at": i} for i in range(200)]

        def grouped(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
            flat = collate(
                [{**rows[3 * r["at"] + c], "labels": 0} for r in batch for c in range(3)]
            )
            made = {k: v.view(len(batch), 3, -1) for k, v in flat.items() if k != "labels"}
            return {**made, "labels": torch.tensor([r["at"] % 3 for r in batch])}

        host.data_collator = grouped
    elif name == "spans":
        host.data_collator = lambda batch: {
            k: v for k, v in collate(batch).items() if k != "labels"
        }
    attached = hf.attach(host, closed(), **OPTIONS)
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    assert 0 < sieve.ledger.examples.scored < 200
    assert sieve.ledger.examples.yielded < 160
    losses = [h["loss"] for h in host.state.log_history if "loss" in h]
    assert all(math.isfinite(x) and x > 0 for x in losses)
    batch = host.data_collator([host.train_dataset[i] for i in range(6)])
    net.eval()
    own = net(**{k: v for k, v in batch.items() if k != "at"})
    head = attached.head
    assert head is not None
    each = head.losses(own, batch)
    ours = each.mean().item()
    if isinstance(head, heads.Tokens):  # the model's own is the mean over tokens
        assert head.per is not None
        ours = each.sum().item() * head.per / int(head.count(batch["labels"]).sum())
    assert ours == pytest.approx(own.loss.item(), rel=1e-4)


def test_heads_of_models() -> None:
    assert isinstance(hf.head_of(model(2)), heads.SingleLabel)
    assert isinstance(hf.head_of(model(1)), heads.Regression)
    assert isinstance(hf.head_of(model(3, problem_type="regression")), heads.Regression)
    causal = hf.head_of(tasks()["causal"][0])
    assert isinstance(causal, heads.Tokens)
    assert causal.shift
