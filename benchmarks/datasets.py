"""Full training, finesieve and random at equal time on a folder of datasets.

    python benchmarks/datasets.py --data-dir DIR --sets clickbait snips

DIR holds a folder a set with train.jsonl.gz and validation.jsonl.gz and / or test.jsonl.gz, a
JSON object a line with "text" (or "text_a" and "text_b") and "label". One process, one thread by
default. Every finished run is written to results/SET.json at once, and what is there is not run
again; tables.py makes the tables.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from finesieve.app.compare import EQUAL, seconds_per_example
from finesieve.app.config import Config
from finesieve.app.train import Prepared, prepare, train

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


class Results:
    """results/SET.json: the command, and one record a run."""

    def __init__(self, path: Path, name: str, command: str, data_dir: str) -> None:
        self._path, self._data_dir = path, data_dir.rstrip("/")
        self.record: dict[str, Any] = {"set": name, "command": command, "runs": []}
        if path.exists():
            self.record["runs"] = json.loads(path.read_text(encoding="utf-8"))["runs"]

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.record["runs"]

    def find(self, name: str, seed: int, lr: float) -> dict[str, Any] | None:
        for r in self.runs:
            if (r["name"], r["seed"], r["config"]["lr"]) == (name, seed, lr):
                return r
        return None

    def once(self, name: str, config: Config, data: Prepared, quiet: bool) -> dict[str, Any]:
        """The recorded run, or else run it and record it."""
        found = self.find(name, config.seed, config.lr)
        if found is None:
            summary = train(config, None, data=data, quiet=quiet, label=f"{name} {config.lr:g}")
            found = without(self._data_dir, {**summary, "name": name})
            self.runs.append(found)
            self._path.parent.mkdir(exist_ok=True)
            self._path.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")
        return found


def run(args: argparse.Namespace, name: str) -> None:
    """Each method, each seed. The random subset is run at each of `--random-lrs`, and the tables
    show its better one: full training and finesieve agreed on a learning rate on the tuning sets
    (results/tuning.json), the random subset did not, and it is not to be handicapped."""
    folder = Path(args.data_dir) / name
    evals = [folder / f"{part}.jsonl.gz" for part in ("validation", "test")]
    command = f"python benchmarks/datasets.py --data-dir DATA --sets {name}"
    for option in ("lr", "max_length", "seeds", "random_share"):
        value = getattr(args, option)
        if value != args.defaults[option]:
            command += f" --{option.replace('_', '-')} {value:g}"
    results = Results(Path(args.output) / f"{name}.json", name, command, args.data_dir)
    base = Config(
        train=str(folder / "train.jsonl.gz"),
        eval=tuple(str(p) for p in evals if p.exists()),
        lr=args.lr,
        max_length=args.max_length,
        threads=args.threads,
    )
    data = prepare(base)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        config = replace(base, seed=seed)
        for method in args.methods.split(","):
            results.once(method, replace(config, method=method), data, args.quiet)
        ours = results.find("finesieve", seed, args.lr)
        if ours is None:
            continue
        share = args.random_share
        if share is None:
            each = seconds_per_example(results.runs, seed)
            share = min(1.0, ours["seconds"]["total"] / (each * ours["examples"]["drawn"]))
        for lr in args.random_lrs:
            rival = replace(config, method="random", settings={"share": round(share, 4)}, lr=lr)
            results.once(EQUAL, rival, data, args.quiet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--methods", default="full,finesieve")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--random-lrs", nargs="*", type=float, default=[1e-4, 2e-4])
    parser.add_argument("--random-share", type=float,
                        help="instead of the share that gives equal time by full training's pace")
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default=str(ROOT / "results"))
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    args.defaults = {k: parser.get_default(k)
                     for k in ("lr", "max_length", "seeds", "random_share")}
    for name in args.sets:
        run(args, name)


if __name__ == "__main__":
    main()
