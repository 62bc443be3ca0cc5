"""Five tasks other than classifying texts, made ready for Hugging Face's Trainer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finesieve.cli.config import Config
from finesieve.cli.correlation import spearman

IGNORED = -100


Rows = list[dict[str, Any]]


TEXT = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}


@dataclass
class Job:
    """One task made ready: what the Trainer gets, and what judges the model afterwards."""

    model: nn.Module
    train: Rows
    held_out: Rows
    collate: Callable[[Rows], dict[str, Tensor]]
    metric: Callable[[list[Tensor], Rows], float]  # of the outputs' logits, row by row
    arguments: dict[str, Any] = field(default_factory=dict)  # more for TrainingArguments,
    trainer: dict[str, Any] = field(default_factory=dict)  # for the Trainer,
    sieve: dict[str, Any] = field(default_factory=dict)  # and for attach
    dataset: Callable[[Rows], Any] = list  # what the Trainer gets of the rows it trains on
    host: type | None = None  # a Trainer of one's own


def made(
    model: nn.Module,
    encoded: Callable[[dict[str, Any]], dict[str, Any]],
    train: Rows,
    held_out: Rows,
    collate: Callable[[Rows], dict[str, Tensor]],
    metric: Callable[[list[Tensor], Rows], float],
) -> Job:
    """A job on these rows, each of them encoded."""
    return Job(model, [encoded(r) for r in train], [encoded(r) for r in held_out], collate, metric)


def read(path: str, limit: int | None, seed: int) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if limit is not None and limit < len(rows):
        chosen = np.random.default_rng([seed, 7]).permutation(len(rows))[:limit]
        rows = [rows[i] for i in chosen]
    return rows


def padded(rows: Rows, pads: dict[str, float], width: int | None = None) -> dict[str, Tensor]:
    """What is in `pads` is a sequence, the rest one value or vector an example; as wide as the
    longest by default."""
    width = width or max(len(r["input_ids"]) for r in rows)
    batch = {}
    for key in rows[0]:
        column = [torch.as_tensor(r[key]) for r in rows]
        if key in pads:
            column = [
                torch.nn.functional.pad(c, (0, width - len(c)), value=pads[key]) for c in column
            ]
        batch[key] = torch.stack(column)
    return batch


def padded_choices(rows: Rows, pads: dict[str, float]) -> dict[str, Tensor]:
    flat = [{k: r[k][c] for k in pads} for r in rows for c in range(len(r["input_ids"]))]
    batch = {k: v.view(len(rows), -1, v.shape[1]) for k, v in padded(flat, pads).items()}
    return {**batch, "labels": torch.tensor([r["labels"] for r in rows])}


def minilm(kind: str, config: Config, **head: Any) -> tuple[nn.Module, Any]:
    import transformers

    from finesieve.cli.training.models import (
        load_tokenizer,
        quiet_transformers,
        resolve,
        set_dropout,
    )

    torch.manual_seed(config.seed)
    with quiet_transformers():
        model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
            resolve("minilm"), dtype=torch.float32, attn_implementation=attention(config), **head
        )
    set_dropout(model, 0.0)
    return model, load_tokenizer("minilm")


def attention(config: Config) -> str | None:
    from finesieve.cli.training.models import pick_attention, pick_device

    return pick_attention(config, pick_device(config.device))


def renamed(**arguments: Any) -> dict[str, Any]:
    """Arguments for TrainingArguments, by the names that transformers 4 has where it is that."""
    from transformers import TrainingArguments

    known = TrainingArguments.__dataclass_fields__
    if "train_sampling_strategy" in arguments and "train_sampling_strategy" not in known:
        arguments["group_by_length"] = arguments.pop("train_sampling_strategy") == "group_by_length"
    if "warmup_ratio" in known and arguments.get("warmup_steps", 1) < 1:
        arguments["warmup_ratio"] = arguments.pop("warmup_steps")
    return arguments


def accuracy(logits: list[Tensor], rows: Rows) -> float:
    right = [int(at.argmax()) == r["labels"] for at, r in zip(logits, rows, strict=True)]
    return float(np.mean(right))


def entities(config: Config, train: Rows, held_out: Rows) -> Job:
    model, tokenizer = minilm("TokenClassification", config, num_labels=9)

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        out = dict(
            tokenizer(
                row["tokens"],
                is_split_into_words=True,
                truncation=True,
                max_length=config.max_length,
            )
        )
        words = tokenizer(
            row["tokens"], is_split_into_words=True, truncation=True, max_length=config.max_length
        ).word_ids()
        first = [i for i, w in enumerate(words) if w is not None and w != words[i - 1]]
        labels = [IGNORED] * len(words)
        for i in first:
            labels[i] = row["tags"][words[i]]
        return {**out, "labels": labels}

    def f1(logits: list[Tensor], rows: Rows) -> float:
        right = found = there = 0
        for at, row in zip(logits, rows, strict=True):
            labels = torch.tensor(row["labels"])
            real = labels != IGNORED
            ours = spans(at[: len(labels)].argmax(-1)[real].tolist())
            theirs = spans(labels[real].tolist())
            right += len(ours & theirs)
            found, there = found + len(ours), there + len(theirs)
        return 2 * right / max(1, found + there)

    pads = {**TEXT, "labels": IGNORED}
    return made(model, encoded, train, held_out, lambda rows: padded(rows, pads), f1)


def spans(tags: Sequence[int]) -> set[tuple[int, int, int]]:
    """Entities of a sentence: (first word, one behind the last, type). 0 is none, 2 t + 1 begins
    one of type t and 2 t + 2 goes on with it."""
    out, begin, kind = set(), 0, -1
    for i, tag in enumerate([*tags, 0]):
        goes_on = tag > 0 and tag % 2 == 0 and (tag - 1) // 2 == kind
        if kind >= 0 and not goes_on:
            out.add((begin, i, kind))
            kind = -1
        if tag > 0 and not goes_on:
            begin, kind = i, (tag - 1) // 2
    return out


def likeness(config: Config, train: Rows, held_out: Rows) -> Job:
    model, tokenizer = minilm(
        "SequenceClassification", config, num_labels=1, problem_type="regression"
    )

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        return {
            **tokenizer(
                row["text_a"], row["text_b"], truncation=True, max_length=config.max_length
            ),
            "labels": row["label"] / 5.0,
        }

    def metric(logits: list[Tensor], rows: Rows) -> float:
        found, wanted = [float(x) for x in logits], [float(r["labels"]) for r in rows]
        return spearman(np.array(found), np.array(wanted))

    return made(model, encoded, train, held_out, lambda rows: padded(rows, TEXT), metric)


def emotions(config: Config, train: Rows, held_out: Rows) -> Job:
    classes = 28
    model, tokenizer = minilm(
        "SequenceClassification",
        config,
        num_labels=classes,
        problem_type="multi_label_classification",
    )

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        labels = [float(c in row["labels"]) for c in range(classes)]
        return {
            **tokenizer(row["text"], truncation=True, max_length=config.max_length),
            "labels": labels,
        }

    def micro_f1(logits: list[Tensor], rows: Rows) -> float:
        ours = torch.stack(logits).sigmoid() > 0.3
        theirs = torch.tensor([r["labels"] for r in rows]) > 0.5
        return float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()).clamp(min=1))

    return made(model, encoded, train, held_out, lambda rows: padded(rows, TEXT), micro_f1)


def choices(config: Config, train: Rows, held_out: Rows) -> Job:
    model, tokenizer = minilm("MultipleChoice", config)

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        asked = [f"{row['text_b']} {option}" for option in row["options"]]
        out = tokenizer(
            [row["text_a"]] * len(asked),
            asked,
            truncation="only_first",
            max_length=config.max_length,
        )
        return {**out, "labels": row["label"]}

    return made(model, encoded, train, held_out, lambda rows: padded_choices(rows, TEXT), accuracy)


def sentences(config: Config, train: Rows, held_out: Rows) -> Job:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        (f"{r['prompt']} {r['completion']}" for r in train),
        vocab_size=4000,
        show_progress=False,
        special_tokens=["<end>"],
    )
    torch.manual_seed(config.seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=bpe.get_vocab_size(),
            n_positions=config.max_length,
            n_embd=256,
            n_layer=4,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation=attention(config),
        )
    )

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        prompt = bpe.encode(row["prompt"] + "\n").ids[: config.max_length // 2]
        told = [*bpe.encode(row["completion"]).ids, 0]
        ids = (prompt + told)[: config.max_length]
        labels = ([IGNORED] * len(prompt) + told)[: config.max_length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    def next_token(logits: list[Tensor], rows: Rows) -> float:
        right = total = 0
        for at, row in zip(logits, rows, strict=True):
            labels = torch.tensor(row["labels"])[1:]
            real = labels != IGNORED
            right += int((at[: len(labels)].argmax(-1)[real] == labels[real]).sum())
            total += int(real.sum())
        return right / max(1, total)

    pads = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return made(model, encoded, train, held_out, lambda rows: padded(rows, pads), next_token)


TASKS = {
    "conll2003": entities,
    "stsb": likeness,
    "goemotions": emotions,
    "race_middle": choices,
    "webnlg": sentences,
}
