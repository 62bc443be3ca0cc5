"""Measure what deciding costs, on one thread, with next to no model.

    python benchmarks/overhead.py [--tokens 32] [--output results/overhead.json]

The first part measures both gates and the predictor by themselves, deciding and learning. Every
example is predicted, decided on by the forward gate, its size revealed, decided on by the backward
gate and learned: the worst case, since in stage 3 only scored examples are learned.

The second part measures the whole sieve over dict batches: it takes batches apart, decides, learns,
and puts survivors together. Losses and sizes are given, so that all that is left is the sieve's own
cost. It is given in processor time, which others on the same machine hardly change. With stages by
hand nobody asks what skipping would save; "priced" is with the default policy, which does.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import finesieve as fs
from finesieve.gates.forward import PredictorGate
from finesieve.gates.protocol import Features, Offer
from finesieve.scoring.protocol import Scorer, Scores

VOCABULARY = 30522
BATCH = 32  # examples in a batch of the loader's


def pools(count: int, n: int, tokens: int) -> list[Offer]:
    """Make pools of uniform token ids (the worst case for the caches; real text repeats itself)."""
    dice = np.random.default_rng(0)
    out = []
    for i in range(count):
        ids = dice.integers(0, VOCABULARY, (n, tokens))
        size = dice.lognormal(-1, 1, n).astype(np.float32)
        out.append(
            Offer(
                np.arange(i * n, (i + 1) * n),
                stage=3,
                drawn=n,
                features=Features(ids, dice.integers(0, 2, n)),
                loss=size,
                size=size,
            )
        )
    return out


def once(method: fs.Method, offers: list[Offer]) -> float:
    """Return how many examples a second the gates decide on and learn from."""
    forward, backward = method.forward, method.backward
    assert isinstance(forward, PredictorGate)
    warm = offers[0]
    backward.learn(Offer(warm.ids, 1, loss=warm.loss, size=warm.size))  # the paper's threshold
    start = time.perf_counter()
    for offer in offers:
        predicted = forward.predict(offer)
        first = forward.decide(
            Offer(offer.ids, 3, offer.drawn, features=offer.features, predicted=predicted)
        )
        full = Offer(
            offer.ids,
            3,
            offer.drawn,
            offer.features,
            first.probability,
            predicted,
            offer.loss,
            offer.size,
        )
        second = backward.decide(full)
        learned = Offer(
            full.ids,
            3,
            full.drawn,
            full.features,
            full.probability,
            predicted,
            full.loss,
            full.size,
            second.keep,
        )
        forward.learn(learned)
        backward.learn(learned)
    return sum(o.n for o in offers) / (time.perf_counter() - start)


class Table(Scorer):
    """Gives the same losses and sizes to every batch, which costs next to nothing."""

    def __init__(self) -> None:
        self.values = np.random.default_rng(1).lognormal(-1, 1, 4096).astype(np.float32)

    def __call__(self, batch: Any) -> Scores:
        found = self.values[: len(batch["labels"])]
        return Scores(found, found)


def loader(count: int, tokens: int) -> list[dict[str, torch.Tensor]]:
    """Make batches as a tokenizer pads them: a quarter of `tokens` long at least, and one whole."""
    dice = torch.Generator().manual_seed(0)
    out = []
    for _ in range(count):
        lengths = torch.randint(max(1, tokens // 4), tokens + 1, (BATCH,), generator=dice)
        lengths[0] = tokens
        mask = (torch.arange(tokens)[None] < lengths[:, None]).long()
        ids = torch.randint(1, VOCABULARY, (BATCH, tokens), generator=dice) * mask
        out.append(
            {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": torch.randint(0, 2, (BATCH,), generator=dice),
            }
        )
    return out


# name -> settings of `finesieve`: stages by hand, or a told cost of scoring, by which gates stay
# open or close
STAGES: dict[str, dict[str, Any]] = {
    "open": {"starts": {}},
    "stage 2": {"starts": {2: 0.0}},
    "stage 3": {"starts": {3: 0.0}},
    "open, priced": {"cost_ratio": 50.0},
    "closed, priced": {"cost_ratio": 0.3},
}


def whole(settings: dict[str, Any], batches: list[Any], seed: int) -> float:
    """Return the sieve's processor time over a pass, in microseconds per example drawn.

    A pass before it is not measured: in it the predictor's tables are touched for the first time.
    """
    table = Table()
    losses = torch.from_numpy(table.values)
    n = len(batches) * BATCH
    method = fs.methods.registry.build("finesieve", seed, **settings)
    sieve = fs.Sieve(scorer=table, method=method, total=2 * n, head_start=0)
    spent = 0.0
    for _ in range(2):
        start = time.process_time()
        for batch in sieve(batches):
            sieve.loss(losses[: len(batch["labels"])], batch)
        spent = time.process_time() - start
    return 1e6 * spent / n


def gates(runs: int, tokens: int) -> dict[str, Any]:
    """Measure the gates by themselves."""
    offers = pools(64, 1024, tokens)
    found: dict[str, Any] = {}
    for name in ("finesieve", "paper"):
        rates = []
        for run in range(runs + 1):
            method = fs.methods.registry.build(name, run)
            rate = once(method, offers)
            if run:  # the first warms up
                rates.append(rate)
        predictor = method.forward.predictor
        found[name] = {
            "examples_per_second_median": round(statistics.median(rates)),
            "examples_per_second_range": [round(min(rates)), round(max(rates))],
            "predictor_bytes": predictor.bytes,
        }
        print(
            f"{name}: {statistics.median(rates):,.0f} examples/s (median of {runs}, "
            f"{min(rates):,.0f} to {max(rates):,.0f}), "
            f"predictor {predictor.bytes / 2**20:.1f} MiB"
        )
    return found


def sieves(runs: int, tokens: int, count: int) -> dict[str, Any]:
    """Measure the whole sieve over `count` batches in each stage."""
    batches = loader(count, tokens)
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    for run in range(runs + 1):
        for name, settings in STAGES.items():
            spent = whole(settings, batches if run else batches[:64], run)
            if run:  # the first warms up
                times[name].append(spent)
    found: dict[str, Any] = {}
    for name, all_times in times.items():
        unit, factor = ("batch", BATCH) if name.startswith("open") else ("example_drawn", 1)
        middle, low, high = (factor * f(all_times) for f in (statistics.median, min, max))
        found[name] = {
            f"microseconds_per_{unit}_median": round(middle, 2),
            f"microseconds_per_{unit}_range": [round(low, 2), round(high, 2)],
        }
        print(
            f"whole sieve, {name}: {middle:,.1f} microseconds per {unit.replace('_', ' ')} "
            f"(median of {runs}, {low:,.1f} to {high:,.1f})"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--batches", type=int, default=512, help="for the whole sieve")
    parser.add_argument("--only", choices=("gates", "sieve"), help="leave the other part out")
    parser.add_argument("--output", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "tokens": args.tokens,
        "examples": 64 * 1024,
        "threads": 1,
        "runs": args.runs,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "command": f"python benchmarks/overhead.py --tokens {args.tokens}",
    }
    if args.only != "sieve":
        result["methods"] = gates(args.runs, args.tokens)
    if args.only != "gates":
        result["sieve"] = {
            "batch": BATCH,
            "batches": args.batches,
            **sieves(args.runs, args.tokens, args.batches),
        }
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
