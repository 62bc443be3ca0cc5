"""Models, plain and filtered loops, and their seconds, memory and quality."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import finesieve
from benchmarks.on_gpu.inputs import Batch, Texts, batches, made_up, placed

WORDS = 30_522
SMALL_WORDS = 500  # of the tiny model, with which nothing is measured
# layers, width: encoders with random weights
ENCODERS = {"12x768": (12, 768), "24x1024": (24, 1024), "2x32": (2, 32)}


def wait(device: torch.device) -> None:
    """Waits until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def minilm(folder: Path, classes: int, seed: int) -> nn.Module:
    """Returns MiniLM-L6 with a new head, in float32, without dropout."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # of the head that is new
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
        folder / "minilm", num_labels=classes, dtype=torch.float32, **_CALM
    )
    return model


_CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def encoder(name: str, classes: int = 2, seed: int = 0) -> nn.Module:
    """Returns a BERT of this size with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    layers, width = ENCODERS[name]
    torch.manual_seed(seed)
    model: nn.Module = BertForSequenceClassification(
        BertConfig(
            vocab_size=SMALL_WORDS if width < 100 else WORDS,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(2, width // 64),
            intermediate_size=4 * width,
            max_position_embeddings=512,
            num_labels=classes,
            **_CALM,
        )
    )
    return model


def causal(layers: int, width: int, words: int, longest: int) -> nn.Module:
    """Returns a GPT-2 of this size with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=words,
            n_positions=longest,
            n_embd=width,
            n_layer=layers,
            n_head=max(2, width // 64),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    return model


def bare(batch: Batch) -> Batch:
    """Returns what the model is given: no targets, nothing of the sieve's."""
    return {k: v for k, v in finesieve.inputs(batch).items() if k != "labels"}


@dataclass
class Loop:
    """One training: a model, its optimizer, and a step; attention without cuDNN's kernels.

    precision: "bf16", "fp16" (with a gradient scaler) or "fp32". compiled: by `torch.compile`.
    head: the task. rate: of AdamW, at the beginning of a linear decay. clip: the gradient's norm at
    the most, as in a Trainer.
    """

    model: nn.Module
    device: torch.device
    precision: str = "bf16"
    compiled: bool = False
    head: Any = None
    rate: float = 1e-4
    clip: float = 1.0

    def __post_init__(self) -> None:
        # Prepared for every shape of a batch, which plain training of short texts would pay, too.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.model.to(self.device).train()
        self.head = self.head or finesieve.heads.SingleLabel()
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, fused=fused)
        self.forward: Any = torch.compile(self.model, dynamic=True) if self.compiled else self.model
        scaled = self.precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context in which forwards run."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, dtype)

    def step(self, batch: Batch, reduce: Callable[[Any, Any], Any] | None = None) -> None:
        """Makes one optimizer step; `reduce` is the sieve's `loss`, the mean without it."""
        given = placed(finesieve.inputs(batch), self.device)
        with self.autocast():
            losses = self.head.losses(self.forward(**bare(given)), given)
        loss = losses.mean() if reduce is None else reduce(losses, batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def sieve(self, method: Any, total: int, **more: Any) -> finesieve.Sieve:
        """Returns a sieve around the loop's model."""
        options = finesieve.SieveOptions(autocast=self.autocast, **more.pop("options", {}))
        return finesieve.Sieve(self.forward, method, total=total, options=options, **more)


def trained(
    loop: Loop, texts: Texts, size: int, seed: int, method: Any = None, **more: Any
) -> dict[str, Any]:
    """Trains one pass and returns seconds, steps, peak memory and the sieve's figures.

    method: of the sieve; None for a plain loop without one. The rate decays linearly to 0 over the
    stream in every case. Seconds include everything but the set-up; the device is waited for at
    the end.
    """
    if loop.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loop.device)
    stream: Any = batches(texts, size, seed)
    plain = -(-len(texts) // size)
    schedule: Any = torch.optim.lr_scheduler.LinearLR(loop.optimizer, 1.0, 0.0, total_iters=plain)
    sieve, reduce = None, None
    if method is not None:
        sieve = loop.sieve(method, len(texts), seed=seed, **more)
        schedule = sieve.schedule(schedule, steps=plain)
        stream, reduce = sieve(stream), sieve.loss
    wait(loop.device)
    begin, steps = time.perf_counter(), 0
    for batch in stream:
        loop.step(batch, reduce)
        schedule.step()
        steps += 1
    wait(loop.device)
    told: dict[str, Any] = {"seconds": time.perf_counter() - begin, "steps": steps}
    if loop.device.type == "cuda":
        told["peak_bytes"] = torch.cuda.max_memory_allocated(loop.device)
    if sieve is not None:
        counts = sieve.ledger.examples
        told |= {
            "drawn": counts.drawn,
            "trained": counts.yielded,
            "scored": counts.scored,
            "costs": list(sieve.costs),
            "moves": sieve.moves,
            "ledger_seconds": {k: round(v, 3) for k, v in sieve.ledger.seconds.items()},
        }
    return told


def quality(loop: Loop, texts: Texts, classes: int, size: int = 256) -> dict[str, float]:
    """Returns accuracy, macro-F1 (mean over the classes that occur) and mean loss."""
    loop.model.eval()
    found, losses = np.zeros((classes, classes)), 0.0
    with torch.no_grad(), loop.autocast():
        for batch in batches(texts, size, seed=0):
            batch = placed(batch, loop.device)
            logits = loop.model(**bare(batch)).logits.float()
            told = batch["labels"]
            losses += float(nn.functional.cross_entropy(logits, told, reduction="sum"))
            np.add.at(found, (told.cpu().numpy(), logits.argmax(1).cpu().numpy()), 1)
    loop.model.train()
    right, given, said = np.diag(found), found.sum(1), found.sum(0)
    f1 = 2 * right[given > 0] / (given + said)[given > 0]
    return {
        "accuracy": float(right.sum() / found.sum()),
        "macro_f1": float(f1.mean()),
        "loss": losses / len(texts),
    }


def repeated(texts: Texts, size: int) -> Iterator[Batch]:
    """Yields batches for ever, the same ones for the same texts."""
    seed = 0
    while True:
        yield from batches(texts, size, seed)
        seed += 1


def shape(size: int, longest: int, count: int) -> Texts:
    """Returns random texts enough for `count` batches of this size."""
    return made_up(size * count, longest, WORDS, seed=1)
