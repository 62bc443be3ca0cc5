"""The grid on the tuning sets, from which the defaults of the other benchmarks were chosen.

    python benchmarks/tuning.py --data-dir DIR

Tuning sets: `sst2-20k` (20,000 examples of sst2's train split, evaluated on 4,000 others of it) and
`emotion`. Grid: learning rate 1e-4 and 2e-4, survivors in batches of 16 and 32. One thread, seed 0.
Runs that are in results/tuning.json are not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from finesieve.app.config import Config
from finesieve.app.train import train

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "results" / "tuning.json"
# set, method, its settings, learning rate, batch size of survivors
GRID: list[tuple[str, str, dict[str, Any], float, int]] = [
    ("sst2-20k", "full", {}, 1e-4, 32),
    ("sst2-20k", "full", {}, 2e-4, 32),
    ("sst2-20k", "random", {"share": 0.5}, 1e-4, 16),
    ("sst2-20k", "random", {"share": 0.5}, 2e-4, 16),
    ("sst2-20k", "random", {"share": 0.5}, 1e-4, 32),
    ("sst2-20k", "random", {"share": 0.5}, 2e-4, 32),
    ("sst2-20k", "finesieve", {}, 1e-4, 16),
    ("sst2-20k", "finesieve", {}, 2e-4, 16),
    ("sst2-20k", "finesieve", {}, 1e-4, 32),
    ("emotion", "finesieve", {}, 2e-4, 16),
    ("emotion", "random", {"share": 0.6}, 2e-4, 16),
]


def split_sst2(data: Path, folder: Path) -> tuple[Path, Path]:
    """20,000 and 4,000 lines of the train split, disjoint, by a seeded shuffle."""
    with gzip.open(data / "sst2" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = list(file)
    random.Random(5).shuffle(lines)
    train_file, eval_file = folder / "s20.jsonl", folder / "s20_eval.jsonl"
    train_file.write_text("".join(lines[:20000]), encoding="utf-8")
    eval_file.write_text("".join(lines[20000:24000]), encoding="utf-8")
    return train_file, eval_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    args = parser.parse_args()
    data = Path(args.data_dir)
    done: list[dict[str, Any]] = []
    if TARGET.exists():
        done = json.loads(TARGET.read_text(encoding="utf-8"))["runs"]
    known = {json.dumps(r["point"]) for r in done}
    with tempfile.TemporaryDirectory() as scratch:
        s20 = split_sst2(data, Path(scratch))
        emotion = data / "emotion"
        for point in GRID:
            name, method, settings, lr, size = point
            if json.dumps(list(point)) in known:
                continue
            config = Config(
                train=str(s20[0] if name == "sst2-20k" else emotion / "train.jsonl.gz"),
                eval=(str(s20[1]),) if name == "sst2-20k" else tuple(
                    str(emotion / f"{part}.jsonl.gz") for part in ("validation", "test")
                ),
                method=method, settings=settings, lr=lr, survivor_batch_size=size,
                max_length=64, threads=1,
            )
            summary = train(config, None, label=f"{name} {method} {lr:g} {size}")
            done.append(record(point, summary))
            save(done)


def record(point: Any, summary: dict[str, Any]) -> dict[str, Any]:
    keys = ("examples", "seconds", "steps", "stages", "versions", "hardware")
    evaluated = {k: summary["eval"][k] for k in ("accuracy", "loss", "n")}
    return {"point": list(point), "eval": evaluated, **{k: summary[k] for k in keys}}


def save(runs: list[dict[str, Any]]) -> None:
    out = {"command": "python benchmarks/tuning.py --data-dir DATA", "runs": runs}
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
