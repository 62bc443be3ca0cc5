"""Decision overhead: both gates and the predictor, deciding and learning, without any model.

    python benchmarks/overhead.py [--tokens 32] [--output results/overhead.json]

One thread. Every example is predicted, decided on by the forward gate, its size revealed, decided
on by the backward gate and learned: the worst case, since in stage 3 only scored ones are learned.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import finesieve as fs
from finesieve.gates.forward import PredictorGate
from finesieve.gates.protocol import Features, Offer


def pools(count: int, n: int, tokens: int, vocabulary: int = 30522) -> list[Offer]:
    """Uniform token ids (the worst case for the caches; real text repeats itself)."""
    dice = np.random.default_rng(0)
    out = []
    for i in range(count):
        ids = dice.integers(0, vocabulary, (n, tokens))
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
    """Examples a second."""
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
            offer.ids, 3, offer.drawn, offer.features, first.probability, predicted,
            offer.loss, offer.size,
        )
        second = backward.decide(full)
        learned = Offer(
            full.ids, 3, full.drawn, full.features, full.probability, predicted, full.loss,
            full.size, second.keep,
        )
        forward.learn(learned)
        backward.learn(learned)
    return sum(o.n for o in offers) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    offers = pools(64, 1024, args.tokens)
    result = {"tokens": args.tokens, "examples": 64 * 1024, "threads": 1, "runs": args.runs,
              "machine": platform.machine(), "python": platform.python_version(),
              "torch": torch.__version__, "numpy": np.__version__,
              "command": f"python benchmarks/overhead.py --tokens {args.tokens}", "methods": {}}
    for name in ("finesieve", "paper"):
        rates = []
        for run in range(args.runs + 1):
            method = fs.methods.registry.build(name, run)
            rate = once(method, offers)
            if run:  # the first warms up
                rates.append(rate)
        predictor = method.forward.predictor
        result["methods"][name] = {
            "examples_per_second_median": round(statistics.median(rates)),
            "examples_per_second_range": [round(min(rates)), round(max(rates))],
            "predictor_bytes": predictor.bytes,
        }
        print(f"{name}: {statistics.median(rates):,.0f} examples/s (median of {args.runs}, "
              f"{min(rates):,.0f} to {max(rates):,.0f}), "
              f"predictor {predictor.bytes / 2**20:.1f} MiB")
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
