"""Once gates are closed, is a larger learning rate right for what then is less noise in a step?

    python benchmarks/rate_scale.py --data-dir DATA [--output results/research/rate-scale.json]

finesieve on the two tuning sets, the rate of the schedule multiplied while a gate is closed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from finesieve.cli.config import Config
from finesieve.cli.memory import keep_memory
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.summary import summary_of
from finesieve.cli.training.train import Run

SETS = {"subj": ("validation", "test"), "emotion": ("validation",)}
FACTORS = {"subj": (1.0, 1.5, 2.0), "emotion": (1.0, 1.5)}


class Scaled(Run):
    """A run whose steps with closed gates have `factor` times the schedule's rate."""

    factor = 1.0
    closed = 0

    def _step(self, batch: Any) -> None:
        plain = self.schedule.schedule.get_last_lr()
        if self.sieve.stage > 1:
            self.closed += 1
            for group, rate in zip(self.optimizer.param_groups, plain, strict=True):
                group["lr"] = rate * self.factor
        super()._step(batch)
        for group, rate in zip(
            self.optimizer.param_groups, self.schedule.schedule.get_last_lr(), strict=True
        ):
            group["lr"] = rate


def one(data_dir: Path, name: str, factor: float) -> dict[str, Any]:
    folder = data_dir / name
    config = Config(
        train=str(folder / "train.jsonl.gz"),
        eval=tuple(str(folder / f"{part}.jsonl.gz") for part in SETS[name]),
        lr=2e-4,
        max_length=64,
        limit=6000,
        eval_limit=2000,
        threads=1,
    )
    data = prepare(config)
    torch.manual_seed(config.seed + 1)
    run = Scaled(config, data, None, Live(name, quiet=True))
    run.factor = factor
    run.train()
    told = summary_of(run)
    return {
        "set": name,
        "factor": factor,
        "loss": round(told["eval"]["loss"], 4),
        "accuracy": round(told["eval"]["accuracy"], 4),
        "seconds": round(told["seconds"]["total"], 1),
        "trained": told["examples"]["trained"],
        "scored": told["examples"]["scored"],
        "steps": told["steps"],
        "closed_steps": run.closed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    found = [one(args.data_dir, name, f) for name, factors in FACTORS.items() for f in factors]
    for row in found:
        print(json.dumps(row))
    if args.output:
        args.output.write_text(
            json.dumps(
                {
                    "command": "python benchmarks/rate_scale.py --data-dir DATA",
                    "runs": found,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
