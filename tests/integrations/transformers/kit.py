"""A tiny model, its data and its Trainer, for the tests of the Trainer's adapter."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from tests.tiny import OPTIONS, closed, same

__all__ = [
    "COMMON",
    "OPTIONS",
    "TRL",
    "Data",
    "closed",
    "collate",
    "model",
    "same",
    "squared",
    "texts",
    "trainer",
    "weights",
]

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}
# Of every host's training arguments here; and what TRL's need besides.
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 2,
    "learning_rate": 3e-3,
    "gradient_accumulation_steps": 2,
    "report_to": [],
    "disable_tqdm": True,
    "logging_steps": 5,
    "use_cpu": True,
}
TRL = {**COMMON, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False}


@functools.cache
def texts(n: int) -> list[Tensor]:
    """Token ids of n texts."""
    dice = np.random.default_rng(5)
    lengths = dice.integers(4, 16, n)
    return [torch.from_numpy(dice.integers(3, 60, length)) for length in lengths]


class Data(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Token ids of which the first decides the label; most examples are soon learned."""

    def __init__(self, n: int, labels: Any = None, **more: Any) -> None:
        self.rows = []
        for i, ids in enumerate(texts(n)):
            label = int(ids[0] > 30) if labels is None else labels(i, ids)
            self.rows.append(
                {"input_ids": ids, "labels": label, **{k: f(i, ids) for k, f in more.items()}}
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return self.rows[i]


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(r["input_ids"]) for r in rows)
    batch: dict[str, Tensor] = {
        "input_ids": torch.zeros(len(rows), width, dtype=torch.long),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.long),
    }
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][i, :length] = row["input_ids"]
        batch["attention_mask"][i, :length] = 1
    for key in rows[0]:
        if key == "input_ids":
            continue
        column = [r[key] for r in rows]
        if isinstance(column[0], Tensor) and column[0].dtype == torch.long and column[0].ndim:
            padded = torch.full((len(rows), width), -100)
            for i, c in enumerate(column):
                padded[i, : len(c)] = c
            batch[key] = padded
        else:
            batch[key] = torch.stack([torch.as_tensor(c) for c in column])
    return batch


def model(classes: int = 2, seed: int = 0, **more: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=classes, **more))


def trainer(folder: Path, net: nn.Module | None = None, data: Any = None, **args: Any) -> Trainer:
    options: dict[str, Any] = {
        **COMMON,
        "save_strategy": "no",
        "warmup_steps": 3,
        "remove_unused_columns": False,
        **args,
    }
    kwargs = {k: options.pop(k) for k in ("compute_loss_func", "callbacks") if k in options}
    return Trainer(
        net if net is not None else model(),
        TrainingArguments(str(folder), **options),
        data_collator=collate,
        train_dataset=Data(300) if data is None else data,
        eval_dataset=Data(40),
        **kwargs,
    )


def weights(host: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in host.model.parameters()]


def squared(net: nn.Module, batch: Any) -> Tensor:
    out = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return (out["logits"].squeeze(1) - batch["labels"]) ** 2
