"""Compares ways of choosing at counted costs, with many seeds: a cheap laboratory.

    python benchmarks/choices.py SET --data-dir DATA --ways random0.5,random1,now --output FILE
    python benchmarks/choices.py --table 0.3 --output FILE

MiniLM stays as it is and is run once; a hidden layer and a head are trained on the mean of its last
hidden states, through the library's own sieve, so that a run takes a second or less. What it can
tell: which way of choosing gives the lower held-out loss for the same numbers of examples trained
on and scored, and of steps. What it cannot tell: seconds (they are counted: tokens trained on, and
0.3 or 0.05 of those scored), and how the layers below would move, which makes sizes age faster in a
real fine-tuning. So what wins here has to be confirmed there.
A line of JSON for each run is appended to the output.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from finesieve.cli.training.batches import Examples, Loader, by_length
from finesieve.cli.training.models import load_model
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.schedule import linear_schedule
from finesieve.gates import sampling
from finesieve.scoring.heads import SingleLabel
from finesieve.sieve.sieve import Sieve
from finesieve.stages import prices

HIDDEN, BATCH, RATE = 256, 32, 1e-3
SETS: dict[str, tuple[str, ...]] = {
    "emotion": ("validation", "test"),
    "subj": ("validation", "test"),
    "sms_spam": ("validation", "test"),
    "trec6": ("test",),
}


class Adapter(nn.Module):
    """A hidden layer beside the features, and a head."""

    def __init__(self, classes: int, table: torch.Tensor) -> None:
        super().__init__()
        width = table.shape[1]
        self.inner, self.outer = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, width)
        nn.init.zeros_(self.outer.weight)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.02)
        self.table = [table]  # in a list, so that it is no part of the module

    def forward(self, example: Any, **_: Any) -> Any:
        x = self.table[0][example]
        return SimpleNamespace(logits=self.classifier(x + self.outer(F.gelu(self.inner(x)))))


@torch.inference_mode()
def features(model: Any, examples: Examples) -> torch.Tensor:
    """Returns float32[n, width], the mean of the last hidden states, of variance 1 in all."""
    out = torch.zeros(len(examples), model.config.hidden_size)
    for index, batch in by_length(examples, 128):
        del batch["labels"]
        mask = batch["attention_mask"][:, :, None].float()
        hidden = model.bert(**batch).last_hidden_state
        out[torch.from_numpy(index)] = (hidden * mask).sum(1) / mask.sum(1)
    return F.normalize(out) * out.shape[1] ** 0.5


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
        self.table = features(model, self.train)
        parts = self.data.evals.values()
        self.held_out = torch.cat([features(model, part) for part in parts])
        self.answers = torch.from_numpy(np.concatenate([part.labels for part in parts]))

    def run(self, way: Way, seed: int, head_start: int = 300) -> dict[str, Any]:
        start = time.process_time()
        torch.manual_seed(seed)
        model, n = Adapter(self.classes, self.table), len(self.train)
        loader, total = Loader(self.train, way.batch, seed, 0), n
        if way.subset < 1.0:
            total = round(way.subset * n)
            some = np.random.default_rng([seed, 80]).permutation(n)[:total]
            loader = Loader(self.train, way.batch, seed, 0, some)
        sieve = Sieve(
            model,
            way.make(),
            total=total,
            head=SingleLabel(),
            head_start=head_start,
            seed=seed,
            options=SieveOptions(pad_values={"input_ids": 0}, **way.options),
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
    def judged(self, model: Adapter) -> dict[str, Any]:
        """Returns held-out loss, accuracy, macro-F1 and the recall of each class."""
        model.table = [self.held_out]
        y = self.answers
        z = model(torch.arange(len(y))).logits
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


BOUND = sampling.class_thresholds


def no_bound(sizes: Any, *_: Any, **__: Any) -> Any:
    """Stands for `class_thresholds` where no class keeps a share of its own."""
    return np.full(np.shape(sizes), np.inf)


@dataclass(frozen=True)
class Way:
    """A way of choosing: a method, options of the sieve, and what plain training is given.

    bounded: whether classes keep a share of their own, as they do in the library.
    """

    make: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    subset: float = 1.0
    batch: int = BATCH
    bounded: bool = True


def way(name: str) -> Way:
    """Returns a way by its name.

    `random0.5`, `random0.5b16`: half of the examples, in batches of 16. Else words joined by +:
    `now` (the default), settings of the method or sieve (`margin=0.1`, `batch_size=32`),
    `stage2=0.02` (from there on everything is scored), `class=0` (no class keeps a share of its
    own), `alone=1` (a roll for each example).
    """
    if name.startswith("random"):
        share, _, batch = name[6:].partition("b")
        return Way(methods.Full, subset=float(share), batch=int(batch or BATCH))
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    bounded = systematic = True
    for word in name.split("+"):
        key, _, value = word.partition("=")
        if key == "class":
            bounded = value != "0"
        elif key == "alone":
            systematic = value == "0"
        elif key == "stage2":
            settings["starts"] = {2: float(value)}
        elif key in ("batch_size", "group", "pool"):
            options[key] = int(value)
        elif key in ("patience", "window", "recent"):
            settings[key] = int(value)
        elif key != "now":
            settings[key] = float(value)

    def make() -> Any:
        method = methods.named("finesieve", **{"cost_ratio": 0.3, **settings}).build()
        for gate in (method.forward.rule, method.backward):  # type: ignore[attr-defined]
            gate.systematic = systematic
        return method

    return Way(make, options, bounded=bounded)


# ---- what came of it


def against_random(runs: list[dict[str, Any]], ratio: float) -> dict[str, list[list[float]]]:
    """Compares the runs of one set and seed with random subsets of the same counted cost.

    Returns for each way the held-out loss over that of a random subset in batches of 32, less 1;
    the same against the better of batches of 32 and 16; accuracy and macro-F1 less that subset's;
    and the cost. Between the subsets that were run, losses are interpolated over the logarithm of
    the cost. The head start, which all of them have, is in no cost.

    Args:
        ratio: what scoring costs over training.
    """
    free = next(run["scored"] for run in runs if run["way"] == "random1")
    curves: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        if run["way"].startswith("random"):
            curves.setdefault(way(run["way"]).batch, []).append(run)
    found: dict[str, list[list[float]]] = {}
    for run in runs:
        plain = run["way"].startswith("random")
        cost = run["trained"] + (0.0 if plain else ratio * (run["scored"] - free))

        def at(key: str, batch: int, cost: float = cost) -> float:
            points = sorted((point["trained"], point[key]) for point in curves[batch])
            shares, values = np.asarray(points).T
            return float(np.interp(np.log(cost), np.log(shares), values))

        better = min(at("loss", batch) for batch in curves)
        found.setdefault(run["way"], []).append(
            [
                run["loss"] / at("loss", BATCH) - 1,
                run["loss"] / better - 1,
                run["accuracy"] - at("accuracy", BATCH),
                run["macro_f1"] - at("macro_f1", BATCH),
                cost,
            ]
        )
    return found


def table(path: Path, ratio: float) -> str:
    """Returns a Markdown table of all runs on record, a row for each set and way."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        groups.setdefault((run["set"], run["noise"], run["seed"]), []).append(run)
    rows: dict[Any, list[list[float]]] = {}
    for (name, noise, _), runs in groups.items():
        if any(run["way"] == "random1" for run in runs):
            for key, values in against_random(runs, ratio).items():
                rows.setdefault((name, noise, key), []).extend(values)
    out = [
        "| set | wrong labels | way | seeds | cost | loss | standard error | loss, better batches "
        "| accuracy | macro-F1 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, noise, key), values in sorted(rows.items()):
        found = np.asarray(values)
        loss, better, accuracy, f1, cost = found.mean(axis=0)
        error = found[:, 0].std() / max(1, len(found) - 1) ** 0.5
        out.append(
            f"| {name} | {noise:.0%} | {key} | {len(found)} | {cost:.2f} | {loss:+.1%} "
            f"| {error:.1%} | {better:+.1%} | {100 * accuracy:+.1f} | {100 * f1:+.1f} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--ways", default="random1,now", help="names, joined by commas")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--limit", type=int, default=4500)
    parser.add_argument("--noise", type=float, default=0.0, help="share of labels made wrong")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--table", type=float, help="cost ratio: compare what is on record")
    args = parser.parse_args()
    if args.table is not None:
        print(table(args.output, args.table))
        return
    torch.set_num_threads(1)
    data = Set(args.data_dir, args.set, args.limit, args.noise)
    for seed in range(args.first, args.first + args.seeds):
        for name in args.ways.split(","):
            chosen = way(name)
            bound = BOUND if chosen.bounded else no_bound
            sampling.class_thresholds = prices.class_thresholds = bound
            found = data.run(chosen, seed)
            row = {"set": args.set, "noise": args.noise, "way": name, "seed": seed, **found}
            with args.output.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
