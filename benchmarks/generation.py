"""What can be foreseen of generation, where there is no label to cross words with.

    python benchmarks/generation.py --data-dir DATA [--output results/research/generation.json]

A small language model (4 layers, 256 wide, random weights, tokens of its own) is trained plainly on
prompts and completions, the prompt masked; every example's size is recorded as its training forward
gave it, and replayed as in benchmarks/replay.py: price (variance x cost over plain training's) at
the best share, and AUC, by what the predictor sees.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import replay
import torch

from finesieve import heads
from finesieve.cli.config import Config
from finesieve.cli.memory import keep_memory
from finesieve.cli.training.summary import hardware, versions

RATIO, BATCH = 0.3, 32
SETS: dict[str, int] = {"webnlg": 8000, "gsm8k": 6000}  # examples


def recorded(name: str, folder: Path) -> dict[str, replay.Stream]:
    """What was recorded, by what the predictor is shown."""
    config = Config(
        train=str(folder / name / "train.jsonl.gz"),
        eval=("none",),
        method="full",
        limit=SETS[name],
        max_length=128,
        threads=1,
        lr=1e-3,
    )
    torch.set_num_threads(config.threads)
    rows = jobs.read(config.train, config.limit, config.seed)
    job = jobs.sentences(config, rows, [])
    targets = [sum(x != jobs.IGNORED for x in r["labels"]) for r in job.train]
    head = heads.Tokens(shift=True, per=float(np.mean(targets)))
    optimizer = torch.optim.AdamW(job.model.parameters(), lr=config.lr, fused=True)
    steps = -(-len(job.train) // BATCH)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    dice, size, losses = np.random.default_rng(0), [], []
    order = dice.permutation(len(job.train))
    for at in range(0, len(order), BATCH):
        batch = job.collate([job.train[i] for i in order[at : at + BATCH]])
        labels = batch.pop("labels")
        out = job.model(**batch)
        each, norms = head.losses(out, {"labels": labels}), head.both(out, {"labels": labels})[1]
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
        size.append(norms.numpy())
        losses.append(float(each.detach().mean()))
    print(f"{name}: loss {np.mean(losses[:20]):.2f} to {np.mean(losses[-20:]):.2f}", flush=True)

    def stream(
        tokens: Callable[[dict[str, Any]], list[int]], counted: bool = False
    ) -> replay.Stream:
        table = np.full((len(order), config.max_length), -1, dtype=np.int64)
        for row, i in zip(table, order, strict=True):
            ids = tokens(job.train[i])
            row[: len(ids)] = ids
        return replay.Stream(
            order,
            table,
            np.zeros(len(order), np.int64),
            np.concatenate(size).astype(np.float64),
            {},
            replay.BEGIN,
            np.float32([targets[i] for i in order]) if counted else None,
        )

    def told(row: dict[str, Any]) -> list[int]:
        return [x for x in row["labels"] if x != jobs.IGNORED]

    def asked(row: dict[str, Any]) -> list[int]:
        return row["input_ids"][: len(row["input_ids"]) - len(told(row))]

    return {
        "prompt, completion, number of targets": stream(lambda r: r["input_ids"], counted=True),
        "prompt and completion": stream(lambda r: r["input_ids"]),
        "completion": stream(told),
        "prompt": stream(asked),
        "number of targets": stream(lambda r: [0], counted=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--output", default=None)
    args = parser.parse_args()
    keep_memory()
    found: dict[str, Any] = {}
    for name in SETS:
        streams = recorded(name, Path(args.data_dir))
        whole = next(iter(streams.values()))
        ways = {"all scored": replay.best(whole, replay.Nothing, RATIO, (1.0,))}
        for seen, stream in streams.items():
            ways[seen] = replay.best(
                stream, lambda stream=stream: replay.Hashed(stream, crossed=False), RATIO
            )
        ways["a predictor that knows"] = replay.best(
            whole, lambda whole=whole: replay.Known(whole), RATIO
        )
        size = whole.size[len(whole.size) // 10 :]
        found[name] = {
            "examples": len(whole.size),
            "concentration": round(float(size.mean() ** 2 / (size**2).mean()), 3),
            "ways": ways,
        }
        for way, row in ways.items():
            print(
                f"  {way:38s} price {row['price']:.3f}  auc {row['auc']:.3f}  "
                f"share scored {row['share']:.2f}",
                flush=True,
            )
    if args.output:
        Path(args.output).write_text(
            json.dumps(
                {
                    "command": "python benchmarks/generation.py --data-dir DATA "
                    "--output results/research/generation.json",
                    "ratio": RATIO,
                    "precision": "fp32",
                    "versions": versions(),
                    "hardware": hardware(torch.device("cpu")),
                    "sets": found,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
