"""How strongly the head start should regularise: held-out loss after training, by strength.

    python benchmarks/head_strength.py --data-dir DATA --output results/research/head-strength.json

One epoch of MiniLM with the head fitted more strongly, by a factor, than is best on the half of the
examples that it was not fitted to (0.3 at the most). Sets that no claim is made of.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from finesieve.cli.config import Config
from finesieve.cli.memory import keep_memory
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.summary import hardware, versions
from finesieve.cli.training.train import Run
from finesieve.scoring import head_start

SETS = {"hwu64": None, "emotion": 9000, "subj": None}  # examples at the most
STRONGEST = head_start.STRENGTHS[0]


def trained(base: Path, limit: int | None, method: str, seed: int, factor: float) -> dict[str, Any]:
    """Trains with the best strength times the factor; returns what came of it."""
    solve = head_start.HeadFit.solve

    def softer(fit: head_start.HeadFit, index: Any, strength: float | None) -> Any:
        scaled = None if strength is None else min(STRONGEST, factor * strength)
        return solve(fit, index, scaled)

    files = [base / f"{part}.jsonl.gz" for part in ("validation", "test")]
    config = Config(
        train=str(base / "train.jsonl.gz"),
        eval=tuple(str(file) for file in files if file.exists()),
        eval_limit=2000,
        limit=limit,
        method=method,
        precision="bf16",
        max_length=64,
        threads=1,
        lr=2e-4,
        seed=seed,
        clock="processor",
        head_start=512,
    )
    run = Run(config, prepare(config), None, Live("plain", quiet=True))
    with patch.object(head_start.HeadFit, "solve", softer):
        run.train()
    told = run.finish()
    return {
        "set": base.name,
        "method": method,
        "seed": seed,
        "factor": factor,
        "best_strength": told["head_start"]["strength"],
        "loss": told["eval"]["loss"],
        "accuracy": told["eval"]["accuracy"],
        "macro_f1": told["eval"]["macro_f1"],
        "trained": told["examples"]["trained"],
        "seconds": told["seconds"]["total"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", default=["full", "finesieve"])
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 10.0, 100.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    keep_memory()
    records = []
    for name, factor, method, seed in product(
        args.sets, args.factors, args.methods, range(args.seeds)
    ):
        records.append(trained(args.data_dir / name, SETS[name], method, seed, factor))
        print(records[-1], flush=True)
        found = {
            "command": "python benchmarks/head_strength.py --data-dir DATA",
            "versions": versions(),
            "hardware": hardware(torch.device("cpu")),
            "records": records,
        }
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
