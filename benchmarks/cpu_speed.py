"""What a training step and a scoring forward take on a CPU: attention, precision, allocator.

    python benchmarks/cpu_speed.py [--shapes 32x13 8x256] [--output results/cpu_speed.json]

MiniLM-L6, one thread, AdamW (fused), clipped; random tokens, a little padding. `kept` is what the
command line does: freed memory stays with the process (`finesieve.cli.memory`). One process an
allocator, one after another; medians of the last of `--steps`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from finesieve.cli.memory import keep_memory
from finesieve.cli.training.models import load_model

Shapes = tuple[tuple[int, int], ...]  # examples, tokens
SHAPES: Shapes = ((16, 13), (32, 13), (32, 32), (32, 64), (8, 256), (8, 512))
WARM = 3


def measure(attention: str, precision: str, n: int, length: int, steps: int) -> dict[str, float]:
    """Milliseconds of a step and of a forward without gradient, on [n, length] tokens."""
    model = load_model("minilm", range(4), 0, dropout=0.0, attention=attention).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def precise() -> Any:
        if precision == "bf16":
            return torch.autocast("cpu", torch.bfloat16)
        return nullcontext()

    taken: dict[str, list[float]] = {"train": [], "score": []}
    for step in range(WARM + steps):
        ids = torch.randint(1000, 30000, (n, length))
        mask = torch.ones_like(ids)
        mask[0, -2:] = 0
        start = time.perf_counter()
        with precise():
            logits = model(input_ids=ids, attention_mask=mask).logits
        F.cross_entropy(logits.float(), ids[:, 0] % 4).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        trained = time.perf_counter()
        with torch.inference_mode(), precise():
            model(input_ids=ids, attention_mask=mask)
        if step >= WARM:
            taken["train"].append(trained - start)
            taken["score"].append(time.perf_counter() - trained)
    return {key: round(1e3 * statistics.median(values), 2) for key, values in taken.items()}


def quantised(shapes: Shapes, steps: int) -> list[dict[str, Any]]:
    """Scoring with int8 weights and activations, quantised dynamically, and what that takes."""
    model = load_model("minilm", range(4), 0, dropout=0.0, attention="eager").eval()
    start = time.perf_counter()
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    once = round(1e3 * (time.perf_counter() - start), 2)
    rows = []
    for n, length in shapes:
        ids = torch.randint(1000, 30000, (n, length))
        taken = []
        for _ in range(WARM + steps):
            start = time.perf_counter()
            with torch.inference_mode():
                small(input_ids=ids, attention_mask=torch.ones_like(ids))
            taken.append(time.perf_counter() - start)
        score = round(1e3 * statistics.median(taken[WARM:]), 2)
        rows.append(
            {
                "memory": "kept",
                "precision": "int8",
                "examples": n,
                "tokens": length,
                "attention": "eager",
                "score": score,
                "quantise": once,
            }
        )
    return rows


def all_of(memory: str, shapes: Shapes, steps: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    if memory == "kept" and not keep_memory():
        raise SystemExit("freed memory cannot be kept: the C library is not glibc")
    rows = []
    for precision in ("bf16", "fp32"):
        for n, length in shapes:
            for attention in ("sdpa", "eager"):
                found = measure(attention, precision, n, length, steps)
                rows.append(
                    {
                        "memory": memory,
                        "precision": precision,
                        "examples": n,
                        "tokens": length,
                        "attention": attention,
                        **found,
                        "ratio": round(found["score"] / found["train"], 3),
                    }
                )
    return rows + (quantised(shapes, steps) if memory == "kept" else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--memory", choices=("default", "kept"), help="this one alone, to stdout")
    parser.add_argument(
        "--shapes",
        nargs="+",
        default=[f"{n}x{length}" for n, length in SHAPES],
        help="examples x tokens of a batch",
    )
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.memory:
        shapes = tuple((int(n), int(length)) for n, length in (s.split("x") for s in args.shapes))
        print(json.dumps(all_of(args.memory, shapes, args.steps)))
        return
    rows: list[dict[str, Any]] = []
    for memory in ("default", "kept"):
        words = [
            sys.executable,
            __file__,
            "--memory",
            memory,
            "--steps",
            str(args.steps),
            "--shapes",
            *args.shapes,
        ]
        rows += json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    result = {
        "command": f"python benchmarks/cpu_speed.py --shapes {' '.join(args.shapes)} "
        f"--steps {args.steps}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "unit": "milliseconds, medians",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
