"""Is the size a good stand-in for the gradient's norm, and what does dropout do to it?

    python benchmarks/gradient_noise.py --data-dir DIR

Trains MiniLM on 12,000 phrases of SST-2, then takes the gradient of the whole model for each of 800
other phrases, with and without dropout, and replays threshold sampling by size: the variance of
the gradient against that of a random subset of the same share. Below 1 the sampling helps, and by
exactly so much fewer examples are needed for the same noise. Writes results/gradient_noise.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from finesieve.cli.config import Config
from finesieve.cli.training.models import set_dropout
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.summary import hardware, versions
from finesieve.cli.training.train import Run
from finesieve.gates.sampling import inclusion, solve_threshold

TARGET = Path(__file__).parent.parent / "results" / "gradient_noise.json"
SHARES, FLOOR = (0.1, 0.18, 0.3), 0.05


def norms(run: Run, count: int, dropout: float) -> tuple[Any, Any]:
    """Sizes in the scoring pass, and squared norms of the training pass's whole gradient."""
    model, (examples, *_) = run.model, run.data.evals.values()
    sizes, squares = [], []
    torch.manual_seed(1)
    for i in range(count):
        batch = examples.batch(np.asarray([i]))
        label = batch.pop("labels")
        model.eval()
        with torch.no_grad():
            error = model(**batch).logits.softmax(-1)[0]
        error[label] -= 1
        set_dropout(model, dropout)
        model.train()
        model.zero_grad()
        F.cross_entropy(model(**batch).logits, label).backward()
        sizes.append(float(error.norm()))
        squares.append(
            sum(float(p.grad.square().sum()) for p in run.trainable if p.grad is not None)
        )
    return np.asarray(sizes), np.asarray(squares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    config = Config(
        train=str(Path(args.data_dir) / "sst2" / "train.jsonl.gz"),
        limit=12000,
        method="full",
        max_length=64,
        lr=1e-4,
        precision="bf16",
        threads=args.threads,
    )
    run = Run(config, prepare(config), None, Live("training"))
    torch.manual_seed(1)
    run.train()
    found = []
    for dropout in (0.0, 0.1):
        size, square = norms(run, 800, dropout)
        for share in SHARES:
            p = inclusion(size, solve_threshold(size, share * len(size), FLOOR), FLOOR)
            expected = float((size**2 / p).sum() / (size**2).sum() * share)
            real = float((square / p).sum() / square.sum() * share)
            found.append(
                {
                    "dropout": dropout,
                    "share": share,
                    "variance by sizes": expected,
                    "variance by gradients": real,
                }
            )
            print(
                f"dropout {dropout}: at {share:.0%}, variance against random "
                f"{real:.2f} (the sizes promise {expected:.2f})"
            )
    out = {
        "command": "python benchmarks/gradient_noise.py --data-dir DATA",
        "found": found,
        "versions": versions(),
        "hardware": hardware(run.device),
    }
    TARGET.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
