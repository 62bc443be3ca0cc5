"""What scoring in bf16 saves where training is in float32, and whether it chooses as well.

    python benchmarks/gpu_suite.py --prepare FOLDER --data-dir DATA
    python -m benchmarks.scoring_precision --inputs FOLDER [--sets snips trec6] [--seeds 2]

The first part times steps and scoring forwards of MiniLM, one thread, in processor seconds, and
compares the sizes. The second part trains MiniLM in float32 for one epoch: on everything, and with
finesieve scoring in training's precision and in bf16.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import finesieve
from benchmarks.gpu_suite import head_start
from benchmarks.on_gpu.inputs import batches, read
from benchmarks.on_gpu.training import Loop, minilm, quality, trained
from finesieve.scoring.scorers import Task

CPU = torch.device("cpu")
CONTEXTS: dict[str, Callable[[], Any] | None] = {
    "fp32": None,
    "bf16": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
}


def costs(inputs: Path, name: str, size: int = 32, count: int = 12) -> dict[str, Any]:
    """Returns milliseconds of a training step in float32 and of a forward over twice as many
    examples in each precision, their ratio by the example, and how the sizes go together."""
    texts, _, classes = read(inputs, name)
    loop = Loop(minilm(inputs, classes, 0), CPU, "fp32")
    given = list(batches(texts.some(8 * count * size), size, 0))
    larger = list(batches(texts.some(8 * count * size), 2 * size, 1))[:count]

    def timed(work: Callable[[Any], Any], over: list[Any]) -> tuple[float, list[Any]]:
        found, took = [], []
        for batch in over:
            start = time.process_time()
            found.append(work(batch))
            took.append(time.process_time() - start)
        return statistics.median(took[2:]), found

    step, _ = timed(loop.step, given[: 3 * count])  # the head must have learned something
    told: dict[str, Any] = {"set": name, "step_ms": round(1e3 * step, 1)}
    sizes = {}
    for kind, context in CONTEXTS.items():
        seconds, scores = timed(Task(loop.model, loop.head, context), larger)
        sizes[kind] = np.concatenate([one.size for one in scores])
        told[kind] = {"forward_ms": round(1e3 * seconds, 1), "ratio": round(seconds / 2 / step, 3)}
    apart = np.abs(sizes["fp32"] - sizes["bf16"])
    told["sizes"] = {
        "mean": round(float(sizes["fp32"].mean()), 4),
        "mean_difference": round(float(apart.mean()), 5),
        "correlation": round(float(np.corrcoef(sizes["fp32"], sizes["bf16"])[0, 1]), 6),
    }
    return told


def run(inputs: Path, name: str, seed: int, how: str, limit: int, rate: float) -> dict[str, Any]:
    """Returns what a training in float32 took and how good its model is.

    Args:
        how: "full", or finesieve's `scoring_precision`.
    """
    texts, evaluated, classes = read(inputs, name)
    texts = texts.some(limit)
    loop = Loop(minilm(inputs, classes, seed), CPU, "fp32", rate=rate)
    method = finesieve.Full() if how == "full" else finesieve.Adaptive()
    options = {} if how == "full" else {"scoring_precision": how}
    start = time.process_time()
    told = trained(
        loop, texts, 32, seed, method, head_start=head_start(len(texts)), options=options
    )
    seconds = time.process_time() - start
    found = quality(loop, evaluated, classes)
    return {
        "set": name,
        "seed": seed,
        "how": how,
        "processor_seconds": round(seconds, 1),
        "trained": round(told["trained"] / len(texts), 3),
        "scored": round(told["scored"] / len(texts), 3),
        "cost_of_scoring": told["costs"][0],
        "moves": [(m["stage"], m["from_example"]) for m in told["moves"]],
        **{key: round(value, 4) for key, value in found.items()},
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=["snips", "trec6"])
    parser.add_argument("--limit", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument(
        "--output", type=Path, default=Path("results/research/scoring-precision.json")
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "command": "python -m benchmarks.scoring_precision --inputs FOLDER "
        f"--sets {' '.join(args.sets)} --limit {args.limit} --seeds {args.seeds}",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "costs": [costs(args.inputs, name) for name in args.sets],
        "runs": [],
    }
    for name in args.sets:
        for seed in range(args.seeds):
            for how in ("training", "auto", "full"):
                found["runs"].append(run(args.inputs, name, seed, how, args.limit, args.rate))
                print(found["runs"][-1], flush=True)
                args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
