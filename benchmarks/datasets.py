"""Full training, finesieve and random at equal time on a folder of datasets.

    python benchmarks/datasets.py --data-dir DIR --sets clickbait snips --seeds 1

DIR holds a folder a set with train.jsonl.gz and validation.jsonl.gz and / or test.jsonl.gz, a
JSON object a line with "text" (or "text_a" and "text_b") and "label". One process, one thread by
default. Results go to results/SET.json, and what is there is not run again; tables.py makes the
tables.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from finesieve.app.compare import compare
from finesieve.app.config import Config
from finesieve.app.train import prepare, train

ROOT = Path(__file__).parent.parent
RANDOM = "random at equal time"


def without(path: str, value: Any) -> Any:
    """The value with the data folder's path left out of every string."""
    if isinstance(value, str):
        return value.replace(path, "DATA")
    if isinstance(value, list):
        return [without(path, v) for v in value]
    if isinstance(value, dict):
        return {without(path, k): without(path, v) for k, v in value.items()}
    return value


def run(args: argparse.Namespace, name: str) -> None:
    """All methods at the learning rate that full training and finesieve had chosen on the tuning
    sets (results/tuning.json). The random subset chose differently on one of them, so it is run
    at each of the grid's rates, and the tables show its better one: the rival is not to be
    handicapped."""
    target = Path(args.output) / f"{name}.json"
    folder = Path(args.data_dir) / name
    evals = [folder / f"{part}.jsonl.gz" for part in ("validation", "test")]
    config = Config(
        train=str(folder / "train.jsonl.gz"),
        eval=tuple(str(p) for p in evals if p.exists()),
        lr=args.lr,
        max_length=args.max_length,
        epochs=args.epochs,
        threads=args.threads,
        eval_limit=args.eval_limit,
    )
    if target.exists():
        results = json.loads(target.read_text(encoding="utf-8"))["runs"]
    else:
        with tempfile.TemporaryDirectory() as scratch:
            results = compare(config, args.methods.split(","), args.seeds, {},
                              str(Path(scratch) / "runs"), quiet=args.quiet)
    at_other_rates(config, args.random_lrs, results, args.quiet)
    command = (f"python benchmarks/datasets.py --data-dir DATA --sets {name} "
               f"--seeds {args.seeds} --methods {args.methods} --lr {args.lr:g} "
               f"--max-length {args.max_length}")
    record = {"set": name, "command": command, "runs": results}
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(without(args.data_dir.rstrip("/"), record), indent=1) + "\n",
                      encoding="utf-8")


def at_other_rates(
    config: Config, rates: list[float], results: list[dict[str, Any]], quiet: bool
) -> None:
    """Add the random runs again, same share and seed, at the other learning rates."""
    missing = [
        replace(config, method="random", settings=r["config"]["settings"], seed=r["seed"], lr=lr)
        for r in results if r["name"] == RANDOM
        for lr in rates
        if not any(x["name"].startswith(RANDOM) and x["seed"] == r["seed"]
                   and x["config"]["lr"] == lr for x in results)
    ]
    data = prepare(config) if missing else None
    for other in missing:
        label = f"{RANDOM}, lr {other.lr:g}"
        results.append({**train(other, None, data=data, quiet=quiet, label=label), "name": label})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--methods", default="full,finesieve")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--random-lrs", nargs="*", type=float, default=[1e-4, 2e-4])
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eval-limit", type=int)
    parser.add_argument("--output", default=str(ROOT / "results"))
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    for name in args.sets:
        run(args, name)


if __name__ == "__main__":
    main()
