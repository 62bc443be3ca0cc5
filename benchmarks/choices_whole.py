"""Ways of choosing again, with all of MiniLM trained: what `choices.py` cannot tell.

    python -m benchmarks.choices_whole SET --data-dir DATA --ways random0.6,now --output FILE

Names of ways are those of `choices.py`, without its ablations. Costs are measured, and seconds are
those of the processor, since one may share it. A line of JSON for each run is appended.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.choices import SETS
from finesieve.cli.config import Config
from finesieve.cli.training.batches import by_length
from finesieve.cli.training.prepare import Prepared, prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.train import Run


def configured(plain: Config, name: str) -> Config:
    """Returns the configuration of a way."""
    if name.startswith("random"):
        share, _, batch = name[6:].partition("b")
        method = "random" if float(share) < 1 else "full"
        settings: dict[str, Any] = {"share": float(share)} if float(share) < 1 else {}
        return replace(plain, method=method, settings=settings, batch_size=int(batch or 32))
    settings = {}
    for word in name.split("+")[1:]:
        key, _, value = word.partition("=")
        settings[key] = int(value) if key in ("patience", "recent") else float(value)
    return replace(plain, settings=settings)


@torch.inference_mode()
def judged(run: Run, data: Prepared) -> dict[str, Any]:
    """Returns held-out loss, accuracy, macro-F1 and the recall of each class."""
    run.model.eval()
    logits, labels = [], []
    for part in data.evals.values():
        for _, batch in by_length(part, 128):
            labels.append(batch.pop("labels"))
            logits.append(run.model(**batch).logits.float())
    z, y = torch.cat(logits), torch.cat(labels)
    table = torch.zeros(len(data.labels), len(data.labels))
    table.index_put_((y, z.argmax(-1)), torch.ones(len(y)), accumulate=True)
    hit, true, said = table.diag(), table.sum(1), table.sum(0)
    return {
        "loss": round(float(F.cross_entropy(z, y)), 4),
        "accuracy": round(float(hit.sum() / len(y)), 4),
        "macro_f1": round(float((2 * hit / (true + said).clamp(min=1)).mean()), 4),
        "recall": [round(float(x), 3) for x in hit / true.clamp(min=1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--ways", default="random0.6,now", help="names, joined by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=4500)
    parser.add_argument("--noise", type=float, default=0.0, help="share of labels made wrong")
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    base = args.data_dir / args.set
    plain = Config(
        train=str(base / "train.jsonl.gz"),
        eval=tuple(str(base / f"{part}.jsonl.gz") for part in SETS[args.set]),
        max_length=48,
        limit=args.limit,
        eval_limit=1000,
        precision="bf16",
        lr=2e-4,
        threads=1,
        clock="processor",
        seed=args.seed,
    )
    data = prepare(plain)
    dice, labels = np.random.default_rng(7), data.train.labels
    wrong = dice.random(len(labels)) < args.noise
    other = dice.integers(1, len(data.labels), len(labels))
    data.train.labels = np.where(wrong, (labels + other) % len(data.labels), labels)
    tokens = float(data.train.lengths.sum())
    for name in args.ways.split(","):
        run = Run(configured(plain, name), data, None, Live("plain", quiet=True))
        run.train()
        meter = run.sieve.meter
        row = {
            **{"set": args.set, "noise": args.noise, "way": name, "seed": args.seed},
            **{"limit": args.limit, "seconds": round(run.cpu, 2), "steps": run.steps},
            "trained": round((meter.opened + meter.closed) / tokens, 3),
            "scored": round(meter.scored / tokens, 3),
            "moves": [[x["stage"], x["from_example"], x["reason"]] for x in run.sieve.moves[1:]],
            **judged(run, data),
        }
        with args.output.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
