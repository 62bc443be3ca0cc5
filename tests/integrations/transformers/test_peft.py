"""Adapters (PEFT) with a sieve: the Trainer, SFTTrainer and a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import finesieve as fs
from finesieve import heads
from tests.conftest import make_batches
from tests.tiny import OPTIONS, bert, causal, closed, runs_with_one_line_more, same, weights

peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",  # PEFT asks transformers by an old name
    "ignore:Could not find a config file in  -:UserWarning",
)  # older ones, of a base without a name

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from finesieve.integrations.transformers import attach as hf  # noqa: E402


def adapted(name: str, seed: int = 0, frozen: int = 0) -> Any:
    """frozen: the seed of the weights below; `seed` is the adapters'."""
    base = bert(2, frozen) if name == "classes" else causal(frozen)
    torch.manual_seed(seed)
    if name == "classes":
        return peft.get_peft_model(
            base,
            peft.LoraConfig(
                task_type="SEQ_CLS", r=4, target_modules=["query", "value"], lora_dropout=0.1
            ),
        )
    return peft.get_peft_model(
        base,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=4,
            target_modules=["c_attn"],
            lora_dropout=0.1,
            fan_in_fan_out=True,
        ),
    )


def data(name: str, n: int = 240) -> list[dict[str, Any]]:
    dice = np.random.default_rng(2)
    rows = []
    for _ in range(n):
        ids = dice.integers(4, 60, int(dice.integers(3, 14)))
        rows.append(
            {
                "input_ids": ids.tolist(),
                "labels": int(ids[0] > 30) if name == "classes" else ids.tolist(),
            }
        )
    return rows


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(r["input_ids"]) for r in rows]
    mask = [torch.ones_like(x) for x in ids]
    labels = [torch.tensor(r["labels"]) for r in rows]
    many = labels[0].ndim > 0
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence(mask, batch_first=True),
        "labels": pad_sequence(labels, True, -100) if many else torch.stack(labels),
    }


def trainer(folder: Path, name: str, model: Any = None, **args: Any) -> Trainer:
    options: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 5,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **args,
    }
    return Trainer(
        adapted(name) if model is None else model,
        TrainingArguments(str(folder), **options),
        data_collator=collate,
        train_dataset=data(name),
    )


@pytest.mark.parametrize("method", ["full", "open"])
@pytest.mark.parametrize("name", ["classes", "causal"])
def test_off_or_never_closing_is_the_host_to_the_bit(
    tmp_path: Path, name: str, method: str
) -> None:
    plain = trainer(tmp_path, name, lr_scheduler_type="constant", save_strategy="no")
    plain.train()
    sieved = trainer(tmp_path, name, lr_scheduler_type="constant", save_strategy="no")
    hf.attach(sieved, closed(starts={}) if method == "open" else method)
    sieved.train()
    assert same(weights(plain.model), weights(sieved.model))


@pytest.mark.parametrize("name", ["classes", "causal"])
def test_adapters_are_scored_trained_saved_and_resumed(tmp_path: Path, name: str) -> None:
    host = trainer(tmp_path, name)
    before = {k: v.clone() for k, v in host.model.state_dict().items()}
    attached = hf.attach(host, closed(), **OPTIONS)
    assert isinstance(attached.head, heads.SingleLabel if name == "classes" else heads.Tokens)
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    assert sieve.ledger.examples.yielded < 400
    moved = {k for k, v in host.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all("lora_" in k or "modules_to_save" in k for k in moved)
    assert all(p.grad is None for p in host.model.parameters() if not p.requires_grad)

    # What was saved is the adapters, and gives the same outputs on the same base
    folder = tmp_path / f"checkpoint-{host.state.global_step}"
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    assert (folder / "finesieve-rank0.pt").exists()
    base = bert() if name == "classes" else causal()
    again = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    batch = collate(data(name)[:8])
    host.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, host.model(**batch).logits)

    # From a checkpoint with gates closed it ends at the same weights
    resumed = trainer(tmp_path, name, adapted(name, seed=9))
    hf.attach(resumed, closed(), **OPTIONS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-15"))
    assert same(weights(host.model), weights(resumed.model))


@pytest.mark.parametrize("name", ["classes", "causal"])
def test_scores_go_through_the_adapters(tmp_path: Path, name: str) -> None:
    host = trainer(tmp_path, name)
    attached = hf.attach(host)
    if name == "causal":
        attached.head.per = 5.0
    scorer, batch = attached._scorer(), collate(data(name)[:16])
    first = scorer(batch)
    with torch.no_grad():
        for key, value in host.model.named_parameters():
            if "lora_B" in key:
                value.normal_()
    second = scorer(batch)
    assert np.abs(second.loss - first.loss).min() > 1e-6
    host.model.eval()
    with torch.no_grad():
        logits = host.model(**batch).logits
        with host.model.disable_adapter():
            bare = host.model(**batch).logits
    expected = attached.head.losses(logits, batch)
    torch.testing.assert_close(torch.from_numpy(second.loss), expected)
    assert not torch.allclose(attached.head.losses(bare, batch), expected)


def test_prompt_tuning_of_a_language_model_is_refused(tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    host = trainer(tmp_path, "causal", peft.get_peft_model(causal(), config))
    with pytest.raises(fs.ConfigError, match="PromptTuningConfig puts tokens of its own"):
        hf.attach(host)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_adapters_under_sft(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from tests.tiny import sentence, tokenizer

    dice = np.random.default_rng(3)
    host = trl.SFTTrainer(
        causal(),
        trl.SFTConfig(
            str(tmp_path),
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            num_train_epochs=2,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            save_strategy="epoch",
            dataloader_pin_memory=False,
        ),
        train_dataset=datasets.Dataset.from_list([{"text": sentence(dice)} for _ in range(160)]),
        processing_class=tokenizer(),
        peft_config=peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True),
    )
    attached = hf.attach(host, closed(), **OPTIONS)
    before = {k: v.clone() for k, v in host.model.state_dict().items()}
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    moved = {k for k, v in host.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all("lora_" in k for k in moved)
    folder = tmp_path / f"checkpoint-{host.state.global_step}"
    assert (folder / "adapter_model.safetensors").exists()


def test_a_plain_loop() -> None:
    torch.manual_seed(0)
    base = BertForSequenceClassification(
        BertConfig(
            vocab_size=128,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        )
    )
    model = peft.get_peft_model(
        base, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    )
    frozen = {k: v.detach().clone() for k, v in model.named_parameters() if not v.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    sieve = fs.Sieve(model, closed(), total=400, options=fs.SieveOptions(pool=50, group=2))
    losses = []
    model.train()
    for batch in sieve(make_batches(400)):
        given = fs.inputs(batch)
        labels = given.pop("labels")
        each = F.cross_entropy(model(**given).logits, labels, reduction="none")
        loss = sieve.loss(each, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sieve.stage == 3
    assert 0 < sieve.ledger.examples.scored < 400
    assert sieve.ledger.examples.yielded < 350
    now = dict(model.named_parameters())
    assert all(torch.equal(now[k], v) for k, v in frozen.items())
    assert model.training


def test_the_example_has_one_line_more(tmp_path: Path) -> None:
    runs_with_one_line_more("lora.py", tmp_path)
