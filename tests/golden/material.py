"""Data and models of the golden runs. They depend on no library code and no other test.

All random numbers here come from `numpy.random.RandomState`, whose stream numpy never changes, so
that data and first parameters are the same under every version of every package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WORDS, WIDTH, BATCH = 32, 8, 8
Example = dict[str, Any]


def examples(n: int, seed: int = 0, noise: tuple[int, int] = (0, 0)) -> list[Example]:
    """Return n examples: `input_ids` int64[3 to 10], `labels` int, `own` the example's number.

    The first token decides the label, except in one example of eight, where chance does. From
    number noise[0] up to noise[1] chance decides all labels, so that nothing can be learned.
    """
    dice = np.random.RandomState(seed)
    made = []
    for i in range(n):
        ids = dice.randint(1, WORDS, size=dice.randint(3, 11))
        chance = dice.rand() < 0.125 or noise[0] <= i < noise[1]
        label = dice.randint(2) if chance else int(ids[0] >= WORDS // 2)
        made.append(
            {"input_ids": torch.from_numpy(ids.astype(np.int64)), "labels": int(label), "own": i}
        )
    return made


def collate(rows: list[Example]) -> dict[str, Tensor]:
    """Return a batch of int64 tensors, padded with 0 to the longest of these examples."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = row["input_ids"]
        mask[i, : len(row["input_ids"])] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def collate_own(rows: list[Example]) -> dict[str, Tensor]:
    """As `collate`, with the examples' own numbers in the column `own`."""
    return {**collate(rows), "own": torch.tensor([row["own"] for row in rows])}


def collate_tokens(rows: list[Example]) -> dict[str, Tensor]:
    """As `collate`, with a label for every token, -100 for padding.

    It says whether the token's id is even, except at every sixth place, where it says the reverse,
    so that the losses stay well above 0.
    """
    batch = collate(rows)
    places = (
        torch.arange(batch["input_ids"].shape[1])
        + torch.tensor([row["own"] for row in rows])[:, None]
    )
    labels = (batch["input_ids"] + (places % 6 == 0)) % 2
    return {**batch, "labels": torch.where(batch["attention_mask"] == 1, labels, -100)}


def batches(rows: list[Example], seed: int | None = None, collated: Any = collate) -> list[Any]:
    """Return these examples in batches of 8; in an order drawn by `seed`, or as they are."""
    order = (
        np.arange(len(rows)) if seed is None else np.random.RandomState(seed).permutation(len(rows))
    )
    return [collated([rows[j] for j in order[i : i + BATCH]]) for i in range(0, len(rows), BATCH)]


def fill(model: nn.Module, seed: int) -> None:
    """Draw all matrices of a model anew; its vectors (biases and norms) stay as they are made."""
    dice = np.random.RandomState(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                drawn = 0.3 * dice.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(drawn))


class Bag(nn.Module):
    """Classify by the mean of the tokens' embeddings and the first token's: small, but it learns.

    Called as model(input_ids, attention_mask), int64[n, length] both; returns logits float[n, 2].
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, 2)
        nn.init.zeros_(self.head.bias)
        fill(self, seed)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        embedded = self.embed(input_ids)
        mean = (embedded * mask).sum(1) / mask.sum(1)
        return self.head(mean + embedded[:, 0])


def bert(seed: int = 0, tokens: bool = False, layers: int = 1) -> Any:
    """Return a small BERT without dropout that classifies texts, or their tokens."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertForTokenClassification,
    )

    kind = BertForTokenClassification if tokens else BertForSequenceClassification
    model = kind(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=WIDTH,
            max_position_embeddings=16,
            num_labels=2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    fill(model, seed)
    return model


def optimizer(model: nn.Module, rate: float = 0.02) -> torch.optim.AdamW:
    """Return AdamW with a large epsilon.

    With the usual one, a gradient that is zero up to rounding would make full steps, and the final
    parameters would depend on the processor.
    """
    return torch.optim.AdamW(model.parameters(), lr=rate, eps=1e-4)
