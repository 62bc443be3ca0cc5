"""Full training, finesieve and random at equal time on a folder of datasets.

    python benchmarks/datasets.py --data-dir DIR --sets clickbait snips --seeds 1

DIR holds a folder a set with train.jsonl.gz and validation.jsonl.gz and / or test.jsonl.gz, a
JSON object a line with "text" (or "text_a" and "text_b") and "label". One process, one thread by
default. Results go to results/SET.json and are not run again; tables.py makes the tables of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from finesieve.app.compare import compare
from finesieve.app.config import Config

# Learning rates were chosen on the tuning sets only (results/tuning.json), over the same grid
# for each method; the other sets are claim sets.
TUNED: dict[str, dict[str, Any]] = {}
ROOT = Path(__file__).parent.parent


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
    target = Path(args.output) / f"{name}.json"
    if target.exists():
        print(f"{target} is there")
        return
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
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        results = compare(config, args.methods.split(","), args.seeds, {}, str(runs),
                          tuned=TUNED, quiet=args.quiet)
        shutil.rmtree(runs)
    command = (f"python benchmarks/datasets.py --data-dir DATA --sets {name} "
               f"--seeds {args.seeds} --methods {args.methods} --lr {args.lr:g} "
               f"--max-length {args.max_length}")
    record = {"set": name, "command": command, "runs": results}
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(without(args.data_dir.rstrip("/"), record), indent=1) + "\n",
                      encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--methods", default="full,finesieve")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-4)
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
