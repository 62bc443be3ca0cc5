"""What attaching costs on top of the raw loop with the sieve, host by host.

    python benchmarks/integration.py [--rounds 7] [--precision bf16] [--output FILE]

One thread. The model is tiny, so that little but the hosts' own work is timed: milliseconds a step,
which MiniLM's steps of the same batches are then set beside: with MiniLM itself a host's own work
is less than what the same steps differ by. Two numbers a host, medians over rounds in which all
take turns:

open: (host with the sieve - plain host), gates held open, so both train on the same batches.
closed: (host with the sieve - loop with the sieve) over the steps both made, less what a step of
    the plain host takes more than one of the plain loop. Gates closed by hand.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import lightning
import torch
import transformers
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import finesieve as fs
from finesieve import heads, inputs, methods
from finesieve.cli import memory
from finesieve.cli.data.docstrings import rows
from finesieve.cli.training.models import load_model, load_tokenizer
from finesieve.integrations.accelerate import FilteredLoader
from finesieve.integrations.lightning import SieveCallback
from finesieve.integrations.transformers import attach as hf

EXAMPLES, BATCH, SURVIVORS, WORDS = 6400, 32, 16, 1000
Made = tuple[float, int]  # seconds, steps


def gates(kind: str) -> fs.Method | str:
    if kind == "plain":
        return "full"
    starts = {} if kind == "open" else {2: 0.0, 3: 0.2}
    return methods.registry.build(
        "finesieve", 0, starts=starts, cost_ratio=0.3, train=0.3, score=0.6
    )


def losses_of(model: Any, batch: Any) -> Tensor:
    given = {k: v for k, v in inputs(batch).items() if k != "labels"}
    return F.cross_entropy(model(**given).logits, batch["labels"], reduction="none")


def adam(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)


class Hosts:
    """One training run each; `kind` is plain, open or closed."""

    def __init__(self, data: list[dict[str, Any]], collate: Any, names: list[str]) -> None:
        self.data, self.collate, self.names = data, collate, names

    def model(self) -> Any:
        torch.manual_seed(0)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=WORDS,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                num_labels=len(self.names),
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        ).train()

    def loader(self) -> Any:
        return DataLoader(self.data, BATCH, shuffle=True, collate_fn=self.collate)

    def loop(self, kind: str) -> Made:
        model = self.model()
        optimizer, loader, steps = adam(model), self.loader(), 0
        sieve = (
            None
            if kind == "plain"
            else fs.Sieve(
                model,
                gates(kind),
                total=len(self.data),
                options=fs.SieveOptions(batch_size=SURVIVORS),
            )
        )
        begin = time.perf_counter()
        for batch in sieve(loader) if sieve else loader:
            losses = losses_of(model, batch)
            (sieve.loss(losses, batch) if sieve else losses.mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        return time.perf_counter() - begin, steps

    def trainer(self, kind: str) -> Made:
        with tempfile.TemporaryDirectory() as folder:
            host = Trainer(
                self.model(),
                TrainingArguments(
                    folder,
                    per_device_train_batch_size=BATCH,
                    num_train_epochs=1,
                    report_to=[],
                    save_strategy="no",
                    logging_strategy="no",
                    disable_tqdm=True,
                    use_cpu=True,
                    dataloader_pin_memory=False,
                ),
                data_collator=self.collate,
                train_dataset=self.data,
            )
            if kind != "plain":
                hf.attach(host, gates(kind), batch_size=SURVIVORS)
            begin = time.perf_counter()
            host.train()
            return time.perf_counter() - begin, int(host.state.global_step)

    def accelerate(self, kind: str) -> Made:
        host = accelerate.Accelerator(cpu=True)
        model = self.model()
        model, optimizer, loader = host.prepare(model, adam(model), self.loader())
        stream, steps = None, 0
        if kind != "plain":
            stream = FilteredLoader(host, loader, model, gates(kind), batch_size=SURVIVORS)
        begin = time.perf_counter()
        for batch in stream if stream else loader:
            with host.accumulate(model):
                losses = losses_of(model, batch)
                host.backward(stream.loss(losses, batch) if stream else losses.mean())
                host.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            steps += 1
        return time.perf_counter() - begin, steps

    def fabric(self, kind: str) -> Made:
        host = Fabric(accelerator="cpu", devices=1)
        model = self.model()
        wrapped, optimizer = host.setup(model, adam(model))
        loader, steps = host.setup_dataloaders(self.loader()), 0
        sieve = (
            None
            if kind == "plain"
            else fs.Sieve(
                model,
                gates(kind),
                total=len(self.data),
                options=fs.SieveOptions(batch_size=SURVIVORS, autocast=host.autocast),
            )
        )
        begin = time.perf_counter()
        for batch in sieve(loader) if sieve else loader:
            losses = losses_of(wrapped, batch)
            host.backward(sieve.loss(losses, batch) if sieve else losses.mean())
            host.clip_gradients(wrapped, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        return time.perf_counter() - begin, steps

    def lightning(self, kind: str) -> Made:
        module = Module(self.model())
        loader: Any = self.loader()
        callbacks: list[Any] = []
        if kind != "plain":
            module.sieved = SieveCallback(
                gates(kind), head=heads.SingleLabel(), batch_size=SURVIVORS
            )
            loader, callbacks = module.sieved(loader), [module.sieved]
        with tempfile.TemporaryDirectory() as folder:
            host = lightning.Trainer(
                callbacks=callbacks,
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                default_root_dir=folder,
                enable_progress_bar=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                gradient_clip_val=1.0,
            )
            begin = time.perf_counter()
            host.fit(module, loader)
            return time.perf_counter() - begin, int(host.global_step)


class Module(lightning.LightningModule):
    sieved: Any = None

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, **given: Any) -> Any:
        return self.body(**given)

    def training_step(self, batch: Any, index: int) -> Tensor:
        losses = losses_of(self.body, batch)
        return losses.mean() if self.sieved is None else self.sieved.loss(losses, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self)


def minilm_steps(table: list[dict[str, Any]], names: list[str], precision: str) -> dict[int, float]:
    """Seconds of a training step, as the command line trains: median of 15, by batch."""
    tokenizer, model = load_tokenizer("minilm"), load_model("minilm", names, seed=0, dropout=0.0)
    optimizer, found = adam(model.train()), {}
    for size in (BATCH, SURVIVORS):
        taken = []
        for i in range(18):
            part = table[i * size : (i + 1) * size]
            batch = dict(
                tokenizer(
                    [r["text"] for r in part],
                    truncation=True,
                    max_length=48,
                    padding=True,
                    return_tensors="pt",
                )
            )
            batch["labels"] = torch.tensor([names.index(r["label"]) for r in part])
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                losses = losses_of(model, batch)
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            taken.append(time.perf_counter() - begin)
        found[size] = statistics.median(taken[3:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of MiniLM's step; bf16 where the processor has its instructions",
    )
    parser.add_argument("--output", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = rows("train")[:EXAMPLES]
    names = sorted({r["label"] for r in table})
    tokenizer = load_tokenizer("minilm")
    texts = [tokenizer(r["text"], truncation=True, max_length=48)["input_ids"] for r in table]
    data = [
        {"input_ids": [i % WORDS for i in ids], "labels": names.index(r["label"])}
        for ids, r in zip(texts, table, strict=True)
    ]
    hosts = Hosts(data, DataCollatorWithPadding(tokenizer), names)
    runs: dict[str, Callable[[str], Made]] = {
        "loop": hosts.loop,
        "trainer": hosts.trainer,
        "accelerate": hosts.accelerate,
        "lightning": hosts.lightning,
        "fabric": hosts.fabric,
    }
    made: dict[tuple[str, str], list[Made]] = {}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            for kind in ("plain", "open", "closed"):
                gc.collect()
                one = run(kind)
                if turn:  # the first warms up
                    made.setdefault((name, kind), []).append(one)

    def step(name: str, kind: str) -> list[float]:
        return [seconds / steps for seconds, steps in made[name, kind]]

    found: dict[str, Any] = {}
    step_of = minilm_steps(table, names, args.precision)
    for name in runs:
        opened = statistics.median(
            a - b for a, b in zip(step(name, "open"), step(name, "plain"), strict=True)
        )
        closed = statistics.median(
            a - b - (c - d)
            for a, b, c, d in zip(
                step(name, "closed"),
                step("loop", "closed"),
                step(name, "plain"),
                step("loop", "plain"),
                strict=True,
            )
        )
        found[name] = {
            "steps": {k: made[name, k][0][1] for k in ("plain", "open", "closed")},
            "ms_a_step": {
                k: round(1e3 * statistics.median(step(name, k)), 3)
                for k in ("plain", "open", "closed")
            },
            "open_ms": round(1e3 * opened, 3),
            "open_of_minilm_step": round(opened / step_of[BATCH], 4),
            "closed_ms": round(1e3 * closed, 3),
            "closed_of_minilm_step": round(closed / step_of[SURVIVORS], 4),
        }
        print(name, json.dumps(found[name]))
    if args.output:
        Path(args.output).write_text(
            json.dumps(
                {
                    "command": f"python benchmarks/integration.py --rounds {args.rounds} "
                    f"--precision {args.precision}",
                    "examples": len(data),
                    "batch": BATCH,
                    "survivors_a_batch": SURVIVORS,
                    "rounds": args.rounds,
                    "threads": 1,
                    "hosts": found,
                    "minilm_ms_a_step": {str(k): round(1e3 * v, 1) for k, v in step_of.items()},
                    "machine": platform.machine(),
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "accelerate": accelerate.__version__,
                    "lightning": lightning.__version__,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    memory.keep_memory()
    main()
