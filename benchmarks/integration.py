"""What attaching costs: the Trainer with a sieve over the Trainer, a loop with one over a loop.

    python benchmarks/integration.py [--rounds 7] [--output results/integration.json]

One thread, MiniLM on the built-in data, the gates held open, so that all four train on the same
batches and the difference is observing, deciding and the adapter's own work. The four take turns;
the numbers are medians over rounds of ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

import finesieve as fs
from finesieve import hf, inputs, methods, scores
from finesieve.app.docstrings import rows
from finesieve.app.models import load_model, load_tokenizer

EXAMPLES, BATCH = 640, 32


def opened() -> fs.Method:
    """Ours, with gates that never close."""
    return methods.build("finesieve", 0, starts={}, cost_ratio=0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = rows("train")[:EXAMPLES]
    names = sorted({r["label"] for r in table})
    tokenizer = load_tokenizer("minilm")
    model = load_model("minilm", names, seed=0, dropout=0.0)
    start = copy.deepcopy(model.state_dict())
    data = [{**tokenizer(r["text"], truncation=True, max_length=48),
             "labels": names.index(r["label"])} for r in table]
    collate = DataCollatorWithPadding(tokenizer)

    def host(attach: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(model, TrainingArguments(
                folder, per_device_train_batch_size=BATCH, num_train_epochs=1, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
            ), data_collator=collate, train_dataset=data)
            if attach:
                hf.attach(trainer, opened())
            begin = time.perf_counter()
            trainer.train()
            return time.perf_counter() - begin

    def loop(sieved: bool) -> float:
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
        loader: Any = DataLoader(data, BATCH, shuffle=True, collate_fn=collate)
        sieve = fs.Sieve(scores.Classification(model), opened(), total=EXAMPLES)
        model.train()
        begin = time.perf_counter()
        for batch in sieve(loader) if sieved else loader:
            given = {k: v for k, v in inputs(batch).items() if k != "labels"}
            losses = F.cross_entropy(model(**given).logits, batch["labels"], reduction="none")
            (sieve.reduce(losses, batch) if sieved else losses.mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - begin

    kinds: dict[str, Callable[[], float]] = {
        "trainer": lambda: host(False), "trainer with sieve": lambda: host(True),
        "loop": lambda: loop(False), "loop with sieve": lambda: loop(True),
    }
    seconds: dict[str, list[float]] = {k: [] for k in kinds}
    for turn in range(args.rounds + 1):
        for name, run in kinds.items():
            model.load_state_dict(start)
            torch.manual_seed(turn)
            taken = run()
            if turn:  # the first warms up
                seconds[name].append(taken)

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    ratios = {"trainer": ratio("trainer with sieve", "trainer"),
              "loop": ratio("loop with sieve", "loop")}
    for name, value in ratios.items():
        print(f"{name} with sieve / {name}: {value:.3f}")
    if args.output:
        Path(args.output).write_text(json.dumps({
            "command": f"python benchmarks/integration.py --rounds {args.rounds}",
            "examples": EXAMPLES, "batch": BATCH, "rounds": args.rounds, "threads": 1,
            "with_sieve_over_without": {k: round(v, 4) for k, v in ratios.items()},
            "seconds": {k: [round(x, 3) for x in v] for k, v in seconds.items()},
            "machine": platform.machine(), "python": platform.python_version(),
            "torch": torch.__version__, "transformers": transformers.__version__,
        }, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
