"""Where nothing can be skipped, what does the sieve take on top of plain training?

    python benchmarks/never_slower.py --data-dir DATA [--output results/never-slower.json]

The sets of benchmarks/never-slower.toml. Two trainings of the same seed stand side by side in one
process and take turns, step by step, each first as often as the other: a machine that changes its
pace slows both down alike, and the ratio of the two is known far better than from runs that follow
one another. One is a plain loop without any sieve, the other finesieve with its defaults.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finesieve.cli.comparing.suite import Files, read_suite
from finesieve.cli.config import Config
from finesieve.cli.memory import keep_memory
from finesieve.cli.training.prepare import Prepared, prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.schedule import linear_schedule
from finesieve.cli.training.summary import judged
from finesieve.cli.training.train import Run
from finesieve.sieve.schedule import StreamSchedule

SUITE = Path(__file__).parent / "never-slower.toml"


class Side:
    """One of the two trainings: its steps, its seconds."""

    def __init__(self, config: Config, data: Prepared, sieved: bool) -> None:
        self.run = Run(config, data, None, Live("", quiet=True))
        self.run.model.train()
        self.seconds, self.steps = 0.0, 0
        self._going = self._sieved() if sieved else self._plain()

    def _plain(self) -> Iterator[float]:
        """A loop as anybody writes it; the share of the stream after each step. Its rate goes by
        examples, as the sieve's does, so that the last, smaller batch is no difference."""
        run, loader = self.run, self.run.loader(0)
        shape, seen = linear_schedule(run.optimizer, len(loader), run.config.warmup), 0
        schedule = StreamSchedule(shape, len(loader), lambda: seen / len(run.data.train))
        for batch in loader:
            seen += len(batch["labels"])
            run.losses(run.model, batch).mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(run.trainable, 1.0)
            run.optimizer.step()
            schedule.step()
            run.optimizer.zero_grad()
            yield seen / len(run.data.train)

    def _sieved(self) -> Iterator[float]:
        for batch in self.run.sieve(self.run.loader(0)):
            self.run._step(batch)
            yield self.run.sieve.progress

    def step(self) -> float:
        """Make one step, on the clock; how far the stream is, above 1 at its end."""
        begin = time.perf_counter()
        share = next(self._going, 2.0)
        self.seconds += time.perf_counter() - begin
        self.steps += share <= 1.0
        return share


def side_by_side(config: Config, data: Prepared) -> dict[str, Any]:
    sides = []
    for method in ("full", "finesieve"):
        torch.manual_seed(config.seed + 1)
        sides.append(Side(replace(config, method=method), data, sieved=method == "finesieve"))
    plain, ours = sides
    shares = {plain: 0.0, ours: 0.0}
    turn = 0
    while min(shares.values()) <= 1.0:
        # The one that is behind; the order changes, for what each finds in the caches.
        first, second = sides if turn % 2 else sides[::-1]
        for side in (first, second):
            if shares[side] <= 1.0 and shares[side] <= min(shares.values()) + 0.01:
                shares[side] = side.step()
        turn += 1
    told = {}
    for name, side in (("plain", plain), ("finesieve", ours)):
        test = judged(side.run.model, data, side.run.device)["eval"]
        told[name] = {
            "seconds": round(side.seconds, 3),
            "steps": side.steps,
            "accuracy": test["accuracy"],
            "loss": test["loss"],
        }
    ledger = ours.run.sieve.ledger
    return {
        **told,
        "ratio": round(ours.seconds / plain.seconds, 4),
        "deciding": round(ledger.seconds["decide"] / ours.seconds, 4),
        "same_weights": all(
            torch.equal(a, b)
            for a, b in zip(plain.run.model.parameters(), ours.run.model.parameters(), strict=True)
        ),
        "examples": {
            "drawn": ledger.examples.drawn,
            "scored": ledger.examples.scored,
            "trained": ledger.examples.yielded,
        },
        "stages": ours.run.sieve.moves,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sets", nargs="*", help="of the suite; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    suite = read_suite(SUITE)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        files = Files(suite, args.data_dir, Path(scratch))
        for name in args.sets or suite.claim:
            for seed in range(suite.seeds):
                config = suite.config_of(name, "finesieve", seed, {}, files)
                runs.append({"set": name, "seed": seed, **side_by_side(config, prepare(config))})
                print(json.dumps(runs[-1]), flush=True)
    if args.output:
        args.output.write_text(
            json.dumps(
                {
                    "command": "python benchmarks/never_slower.py --data-dir DATA",
                    "suite": f"benchmarks/{SUITE.name}",
                    "config": dict(suite.config),
                    "machine": platform.machine(),
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "threads": 1,
                    "runs": runs,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
