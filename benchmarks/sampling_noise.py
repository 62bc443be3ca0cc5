"""Independent or systematic sampling: the variance of the gradient of the whole model.

    python benchmarks/sampling_noise.py --data-dir DIR [--sets clickbait snips] [--threads 1]

Trains MiniLM on the first 512 and on 2,048 examples of a set, then takes the gradient of 512
held-out examples one by one (60,000 coordinates drawn from all layers but the word embeddings) and
lets gates choose from pools of 256 of them: a random share or threshold sampling by size, rolling
for each example alone or for neighbours in label and size together. The variance around the pool's
own mean gradient is given over that of independent random sampling. Writes
results/sampling_noise.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from finesieve import Features, Gate, Offer, Random, ThresholdSampling
from finesieve.cli.config import Config
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.summary import hardware, versions
from finesieve.cli.training.train import Run

TARGET = Path(__file__).parent.parent / "results" / "sampling_noise.json"
SHARES, POOL, HELD_OUT, COORDINATES, ROLLS = (0.1, 0.2, 0.4), 256, 512, 60_000, 100


def measured(run: Run) -> tuple[Any, Any, Any, Any]:
    """Sizes, labels, losses and gradients [n, coordinates] of the held-out examples."""
    model, (examples, *_) = run.model.eval(), run.data.evals.values()
    parts = [p for name, p in model.named_parameters() if "word_embeddings" not in name]
    dice, whole = torch.Generator().manual_seed(1), sum(p.numel() for p in parts)
    chosen = [
        torch.randint(p.numel(), (max(1, COORDINATES * p.numel() // whole),), generator=dice)
        for p in parts
    ]
    sizes, labels, losses, gradients = [], [], [], []
    for i in range(len(examples)):
        batch = examples.batch(np.asarray([i]))
        label = batch.pop("labels")
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(**batch).logits
        loss = F.cross_entropy(logits.float(), label)
        loss.backward()
        error = logits.detach().float().softmax(-1)[0]
        error[label] -= 1
        sizes.append(float(error.norm()))
        labels.append(int(label))
        losses.append(float(loss.detach()))
        gradients.append(
            torch.cat([p.grad.flatten()[at] for p, at in zip(parts, chosen, strict=True)])
        )
    return np.asarray(sizes), np.asarray(labels), np.asarray(losses), torch.stack(gradients).numpy()


def variance(gate: Gate, sizes: Any, labels: Any, gradients: Any) -> float:
    """Mean squared distance from the pool's own mean, over pools and rolls."""
    dice, found = np.random.default_rng(0), []
    for _ in range(ROLLS):
        pool = dice.permutation(len(sizes))[:POOL]
        features = Features(np.zeros((POOL, 1), np.int64), labels[pool].astype(np.int64))
        offer = Offer(pool, features=features, size=sizes[pool].astype(np.float32))
        verdict = gate.decide(offer)
        assert verdict.probability is not None
        keep, g = verdict.keep, gradients[pool]
        estimate = (g[keep] / verdict.probability[keep][:, None]).sum(axis=0) / POOL
        found.append(float(((estimate - g.mean(axis=0)) ** 2).sum()))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--sets", nargs="+", default=["clickbait", "snips"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    found = []
    for name in args.sets:
        for trained in (512, 2048):
            folder = Path(args.data_dir) / name
            config = Config(
                train=str(folder / "train.jsonl.gz"),
                eval=(str(folder / "validation.jsonl.gz"),),
                limit=trained,
                eval_limit=HELD_OUT,
                method="full",
                max_length=64,
                lr=2e-4,
                precision="bf16",
                threads=args.threads,
            )
            run = Run(config, prepare(config), None, Live("training"))
            run.train()
            sizes, labels, losses, gradients = measured(run)
            for share in SHARES:
                gates: dict[str, Gate] = {
                    "random": Random(share),
                    "random, systematic": Random(share, systematic=True),
                    "by size": ThresholdSampling(share, 0.05, systematic=False),
                    "by size, systematic": ThresholdSampling(share, 0.05),
                }
                raw = {k: variance(g, sizes, labels, gradients) for k, g in gates.items()}
                row = {k: round(v / raw["random"], 3) for k, v in raw.items()}
                found.append(
                    {
                        "set": name,
                        "trained on": trained,
                        "held-out loss": round(float(losses.mean()), 4),
                        "share": share,
                        "variance": row,
                    }
                )
                print(name, trained, share, row)
    out = {
        "command": f"python benchmarks/sampling_noise.py --data-dir DATA --sets "
        f"{' '.join(args.sets)}",
        "found": found,
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
    }
    TARGET.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
