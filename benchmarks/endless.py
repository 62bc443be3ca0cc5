"""Memory over an endless stream: five million examples through a sieve that filters.

    python benchmarks/endless.py [--examples 5000000] [--output results/endless.json]

One thread. A generator without an end or a length, text-like token ids (Zipf), a small bag-of-words
model that learns, both gates closed from early on. Resident memory is read every tenth of the way;
what a sieve holds must not grow with what has gone through it.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finesieve import Sieve, SieveOptions, inputs, methods

VOCABULARY, TOKENS, BATCH = 20_000, 16, 256


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.EmbeddingBag(VOCABULARY, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.out(self.embed(input_ids))
        return logits


def stream(seed: int = 0) -> Iterator[dict[str, Tensor]]:
    """Batches for ever; the rarer half of an example's first words decides its label."""
    dice = np.random.default_rng(seed)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    while True:
        ids = np.minimum(dice.zipf(1.2, (BATCH, TOKENS)), VOCABULARY - 1)
        labels = (ids[:, :4] % 7 < 3).sum(axis=1) > 2
        yield {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": mask,
            "labels": torch.from_numpy(labels.astype(np.int64)),
        }


def resident() -> float:
    """Resident memory of this process, MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=5_000_000)
    parser.add_argument("--output", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Bag()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    method = methods.registry.build(
        "finesieve",
        0,
        train=0.2,
        score=0.4,
        cost_ratio=0.2,
        starts={2: 20_000 / args.examples, 3: 60_000 / args.examples},
    )
    sieve = Sieve(model, method, total=args.examples, options=SieveOptions(batch_size=128))
    points: list[dict[str, Any]] = []
    start = time.perf_counter()
    for batch in sieve(stream()):
        given = {k: v for k, v in inputs(batch).items() if k != "labels"}
        losses = F.cross_entropy(model(**given), batch["labels"], reduction="none")
        sieve.loss(losses, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        drawn = sieve.ledger.examples.drawn
        if drawn >= args.examples * (len(points) + 1) // 10:
            gc.collect()
            points.append(
                {
                    "drawn": drawn,
                    "mib": round(resident(), 1),
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )
            print(
                f"{drawn:>9,} examples: {points[-1]['mib']:.1f} MiB, {points[-1]['seconds']:.0f} s",
                flush=True,
            )
        if drawn >= args.examples:
            break
    done = sieve.ledger.examples
    result = {
        "command": f"python benchmarks/endless.py --examples {args.examples}",
        "examples": {
            "drawn": done.drawn,
            "scored": done.scored,
            "trained": done.yielded,
            "held": sieve.held,
        },
        "stage": sieve.stage,
        "growth_mib": round(points[-1]["mib"] - points[0]["mib"], 1),
        "points": points,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": 1,
    }
    print(
        f"stage {sieve.stage}; trained on {done.yielded:,}, scored {done.scored:,}; from the "
        f"first tenth to the last {result['growth_mib']:+.1f} MiB"
    )
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
