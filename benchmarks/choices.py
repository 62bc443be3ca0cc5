"""Compares ways of choosing at counted costs, with many seeds: a cheap laboratory.

    python benchmarks/choices.py SET --data-dir DATA --ways random0.5,now --output FILE

The first four layers of MiniLM stay as they are and are run once; the last two, the pooler and the
head are trained through the library's own sieve on what they put out. A run of 6,000 examples takes
a few seconds. What it can tell: which way of choosing gives the lower held-out loss for the same
number of examples trained on and scored. What it cannot: seconds (they are counted: tokens trained
on, and 0.3 or 0.05 of those scored), and how far the embeddings and lower layers would have moved.
A line of JSON for each run is appended to the output.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from finesieve import SieveOptions, methods
from finesieve.batches.carry import inputs
from finesieve.cli.config import Config
from finesieve.cli.training.batches import Examples, Loader
from finesieve.cli.training.models import load_model
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.train import linear_schedule
from finesieve.sieve.sieve import Sieve

FROZEN, BATCH, RATE = 4, 32, 4e-4
SETS: dict[str, tuple[str, ...]] = {
    "emotion": ("validation", "test"),
    "subj": ("validation", "test"),
    "sms_spam": ("validation", "test"),
    "trec6": ("test",),
}


class Top(nn.Module):
    """The last layers of a BERT with its head, on what the first ones put out."""

    def __init__(self, model: Any, table: torch.Tensor) -> None:
        super().__init__()
        self.layers = model.bert.encoder.layer[FROZEN:]
        self.pooler, self.classifier = model.bert.pooler, model.classifier
        self.table = [table]  # a list: it is no part of the module

    def forward(self, example: Any, attention_mask: Any, **_: Any) -> Any:
        hidden = self.table[0][example, : attention_mask.shape[1]].float()
        mask = (1.0 - attention_mask[:, None, None].float()) * -1e9
        with torch.autocast("cpu", torch.bfloat16):
            for layer in self.layers:
                out = layer(hidden, attention_mask=mask)
                hidden = out[0] if isinstance(out, tuple) else out
            pooled = self.pooler(hidden)
        return SimpleNamespace(logits=self.classifier(pooled.float()))


@torch.inference_mode()
def states(model: Any, examples: Examples) -> torch.Tensor:
    """Returns bfloat16[n, longest, width]: what the frozen layers put out."""
    out = torch.zeros(len(examples), int(examples.lengths.max()), 384, dtype=torch.bfloat16)
    order = np.argsort(examples.lengths)
    for start in range(0, len(order), 128):
        index = order[start : start + 128]
        batch = examples.batch(index)
        batch.pop("labels")
        hidden = model.bert(**batch, output_hidden_states=True).hidden_states[FROZEN]
        out[torch.from_numpy(index), : hidden.shape[1]] = hidden.bfloat16()
    return out


class Set:
    """A data set with its states. noise: share of the training labels that are made wrong."""

    def __init__(self, folder: Path, name: str, limit: int, noise: float) -> None:
        base = folder / name
        self.data = prepare(
            Config(
                train=str(base / "train.jsonl.gz"),
                eval=tuple(str(base / f"{part}.jsonl.gz") for part in SETS[name]),
                max_length=48,
                limit=limit,
            )
        )
        self.train, self.classes = self.data.train, len(self.data.labels)
        if noise:
            dice = np.random.default_rng(7)
            wrong = dice.random(len(self.train)) < noise
            other = dice.integers(1, self.classes, len(self.train))
            labels = self.train.labels
            self.train.labels = np.where(wrong, (labels + other) % self.classes, labels)
        model = load_model("minilm", self.data.labels, 0, dropout=0.0).eval()
        self.states = states(model, self.train)
        self.evals = [(states(model, part), part) for part in self.data.evals.values()]

    def run(self, way: Way, seed: int, head_start: int = 300) -> dict[str, Any]:
        start = time.process_time()
        full = load_model("minilm", self.data.labels, seed, dropout=0.0)
        model, n = Top(full, self.states), len(self.train)
        loader, total = Loader(self.train, way.batch, seed, 0), n
        if way.subset < 1.0:
            total = round(way.subset * n)
            some = np.random.default_rng([seed, 80]).permutation(n)[:total]
            loader = Loader(self.train, way.batch, seed, 0, some)
        sieve = Sieve(
            model,
            way.make(),
            total=total,
            head=methods_head(),
            head_start=head_start,
            seed=seed,
            options=SieveOptions(pad_values={"input_ids": 0}, **(way.options or {})),
        )
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, fused=True)
        schedule = sieve.schedule(linear_schedule(optimizer, -(-total // way.batch), 0.06))
        steps = 0
        for batch in sieve(loader):
            given = inputs(batch)
            labels = given.pop("labels")
            losses = F.cross_entropy(model(**given).logits, labels, reduction="none")
            sieve.loss(losses, batch).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            steps += 1
        tokens = float(self.train.lengths.sum())
        work = sieve.meter
        trained = (work.opened + work.closed) / tokens
        scored = work.scored / tokens
        moves = [(m["stage"], round(m["from_example"] / n, 2)) for m in sieve.moves[1:]]
        why = [m["reason"][-90:] for m in sieve.moves[1:3]]
        seconds = time.process_time() - start
        return {
            "trained": round(trained, 4),
            "scored": round(scored, 4),
            "steps": steps,
            "moves": moves,
            "why": why,
            "seconds": round(seconds, 2),
            **self.judged(model),
        }

    @torch.inference_mode()
    def judged(self, model: Top) -> dict[str, Any]:
        """Returns held-out loss, accuracy, macro-F1 and the recall of each class."""
        logits, labels = [], []
        for table, part in self.evals:
            model.table = [table]
            for at in range(0, len(part), 128):
                index = np.arange(at, min(at + 128, len(part)))
                batch = part.batch(index)
                labels.append(batch.pop("labels"))
                logits.append(model(torch.from_numpy(index), **batch).logits)
        z, y = torch.cat(logits), torch.cat(labels)
        said = z.argmax(-1)
        f1, recall = [], []
        for label in range(self.classes):
            hit = float(((said == label) & (y == label)).sum())
            both = float((said == label).sum() + (y == label).sum())
            f1.append(2 * hit / both if both else 1.0)
            recall.append(round(hit / max(1.0, float((y == label).sum())), 4))
        return {
            "loss": round(float(F.cross_entropy(z, y)), 5),
            "accuracy": round(float((said == y).float().mean()), 4),
            "macro_f1": round(float(np.mean(f1)), 4),
            "recall": recall,
        }


def methods_head() -> Any:
    from finesieve.scoring.heads import SingleLabel

    return SingleLabel()


class Way:
    """A way of choosing: a recipe's name and settings, options of the sieve."""

    def __init__(
        self,
        make: Callable[[], Any],
        options: dict[str, Any] | None = None,
        subset: float = 1.0,
        batch: int = BATCH,
    ) -> None:
        self.make, self.options, self.subset, self.batch = make, options, subset, batch


def ours(options: dict[str, Any] | None = None, **settings: Any) -> Way:
    if settings.get("starts") is None:
        settings.setdefault("cost_ratio", 0.3)
    return Way(lambda: methods.named("finesieve", **settings), options)


LAB = {"group": 1, "batch_size": 32}


def way(name: str) -> Way:
    """Returns a way by its name: `random0.5`, or words joined by + (see the code)."""
    if name.startswith("random"):
        share, _, batch = name[6:].partition("b")
        return Way(methods.Full, None, float(share), int(batch or BATCH))
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    toggles = {"class": 0.0, "worst": 0.0}
    for word in name.split("+"):
        key, _, value = word.partition("=")
        if key == "now":
            continue
        if key in ("batch_size", "group", "pool"):
            options[key] = int(value)
        elif key == "stage2":  # everything scored, from this share on
            settings["starts"] = {2: float(value)}
        elif key == "stage3":
            settings["starts"] = {2: 0.02, 3: float(value)}
        elif key in ("class", "worst"):
            toggles[key] = float(value)
        elif key == "systematic":
            settings[key] = value != "0"
        else:
            settings[key] = int(value) if key in ("patience", "window", "recent") else float(value)
    from finesieve.gates import sampling
    from finesieve.stages import prices

    sampling.BY_CLASS, prices.WORST = toggles["class"], int(toggles["worst"])
    return ours(options, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set")
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--ways", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--limit", type=int, default=6000)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Set(args.data_dir, args.set, args.limit, args.noise)
    for seed in range(args.first, args.first + args.seeds):
        for name in args.ways.split(","):
            found = data.run(way(name), seed)
            row = {"set": args.set, "noise": args.noise, "way": name, "seed": seed, **found}
            with args.output.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
