"""The tables of the records of `benchmarks/gpu_suite.py`: one for each price of scoring."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.gpu_suite import best_rate
from finesieve.cli.comparing.statistics import Difference, overall, t_quantile

FOLDER = Path(__file__).parent.parent / "results" / "gpu"
TUNING = ("emotion", "subj")
HEADS = (
    "set", "seeds", "cost", "trained", "scored",
    "accuracy: full, random head", "full", "random subset", "finesieve",
    "macro-F1: random subset", "finesieve",
    "loss: random subset", "finesieve", "difference [95 %]",
)  # fmt: skip
Record = dict[str, Any]
Runs = Mapping[int, Record]  # by seed


def by_method(records: list[Record], ratio: float) -> dict[str, dict[str, dict[int, Record]]]:
    """Returns the claim sets' records by set, method and seed, at this price of scoring."""
    found: dict[str, dict[str, dict[int, Record]]] = {}
    for record in records:
        method = record["method"]
        if record["set"] in TUNING or ":" in method:
            continue
        if record["ratio"] == ratio or method not in ("ours", "random"):
            found.setdefault(record["set"], {}).setdefault(method, {})[record["seed"]] = record
    return {name: runs for name, runs in found.items() if {"ours", "random"} <= runs.keys()}


def tuned(records: list[Record], ratio: float) -> tuple[str, list[Record]]:
    """Returns the rates that the tuning sets chose, in words, and the records of these alone."""
    by_key = {record["key"]: record for record in records}
    seeds = 1 + max(record["seed"] for record in records if record["set"] in TUNING)
    found, told = {}, []
    for method in ("ours", "random"):
        # As many seeds as all rates have.
        for count in range(seeds, 0, -1):
            if (rate := best_rate(by_key, method, ratio, count)) is not None:
                found[method] = rate
                told.append(f"{NAMES[method]} {rate:g}")
                break
    return "; ".join(told), [x for x in records if found.get(x["method"], x["rate"]) == x["rate"]]


def best_rival(records: list[Record], ratio: float) -> list[Record]:
    """Returns the records with those of the random subset at one rate on each set: that of least
    mean loss on this very set, over the seeds that all rates have. Nobody knows it beforehand, so
    this is to the rival's advantage."""
    others = [record for record in records if record["method"] != "random"]
    by_set: dict[str, dict[float, list[Record]]] = {}
    for record in records:
        if record["method"] == "random" and record["ratio"] == ratio:
            by_set.setdefault(record["set"], {}).setdefault(record["rate"], []).append(record)
    best = []
    for by_rate in by_set.values():
        seeds = set.intersection(*({run["seed"] for run in runs} for runs in by_rate.values()))
        paired = [[run for run in runs if run["seed"] in seeds] for runs in by_rate.values()]
        best += min(paired, key=lambda runs: fmean(run["loss"] for run in runs))
    return [*others, *best]


def relative(ours: Runs, rival: Runs) -> Difference:
    """Returns by how much the loss differs, over the rival's mean, with the interval over seeds."""
    seeds = sorted(ours.keys() & rival.keys())
    base = fmean(rival[seed]["loss"] for seed in seeds)
    values = np.array([(ours[seed]["loss"] - rival[seed]["loss"]) / base for seed in seeds])
    mean, n = float(values.mean()), len(values)
    half = math.inf
    if n > 1:
        half = t_quantile(0.975, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def rows(records: list[Record], ratio: float) -> Iterator[tuple[tuple[str, ...], Difference]]:
    """Yields a row for each set, and how finesieve's loss differs there."""
    for name, runs in by_method(records, ratio).items():
        both = sorted(runs["ours"].keys() & runs["random"].keys())
        runs = {method: {k: v for k, v in its.items() if k in both} for method, its in runs.items()}
        ours, rival = runs["ours"], runs["random"]
        difference = relative(ours, rival)

        def mean(runs: Runs, what: str) -> float:
            return fmean(record[what] for record in runs.values())

        def accuracy(method: str, runs: Mapping[str, Runs] = runs) -> str:
            return f"{mean(runs[method], 'accuracy'):.3f}" if runs.get(method) else ""

        def share(what: str, ours: Runs = ours) -> str:
            return f"{fmean(r[what] / r['examples'] for r in ours.values()):.0%}"

        cells = (
            name,
            str(difference.seeds),
            f"{mean(ours, 'cost'):.2f}",
            share("trained"),
            share("scored"),
            *map(accuracy, ("plain", "full", "random", "ours")),
            *(f"{mean(runs[method], 'macro_f1'):.3f}" for method in ("random", "ours")),
            *(f"{mean(runs[method], 'loss'):.3f}" for method in ("random", "ours")),
            f"{difference.mean:+.0%}"
            + ("" if difference.seeds < 2 else f" [{difference.low:+.0%}, {difference.high:+.0%}]"),
        )
        yield cells, difference


def table(records: list[Record], ratio: float) -> str:
    """Returns the table at a price of scoring, and what it says in words."""
    found = list(rows(records, ratio))
    if not found:
        return ""
    there = [i for i in range(len(HEADS)) if any(cells[i] for cells, _ in found)]
    table = [HEADS, *(cells for cells, _ in found)]
    lines = ["| " + " | ".join(cells[i] for i in there) + " |" for cells in table]
    lines.insert(1, "|" + "---|" * len(there))
    differences = [difference for _, difference in found]
    verdicts = [difference.verdict for difference in differences]
    # A single seed tells nothing of its own spread: then the spread over sets alone counts.
    halves = [(d.high - d.low) / 2 for d in differences]
    over = overall([d.mean for d in differences], halves if all(map(math.isfinite, halves)) else ())
    lower = sum(d.mean < 0 for d in differences)
    words = (
        f"At a price of {ratio:g} finesieve's loss is lower than the random subset's on {lower} of "
        f"{len(found)} sets; by the seeds' intervals it is better on {verdicts.count('better')}, "
        f"worse on {verdicts.count('worse')}; {over.mean:+.1%} on average "
        f"({over.low:+.1%} to {over.high:+.1%} over sets)."
    )
    return "\n".join(lines) + "\n\n" + words


def rates(records: list[Record]) -> str:
    """Returns which learning rate each method was given by the tuning sets."""
    found = {}
    for record in records:
        if record["set"] not in TUNING:
            ratio = f" at {record['ratio']:g}" if record["method"] in ("ours", "random") else ""
            found[NAMES[record["method"]] + ratio] = f"{record['rate']:g}"
    return "; ".join(f"{name} {rate}" for name, rate in found.items())


QUALITY = (("accuracy", 3), ("macro_f1", 3), ("loss", 4))
NAMES = {
    "plain": "full, random head",
    "full": "full",
    "random": "random subset",
    "ours": "finesieve",
    "paper": "paper",
}


def section(*names: str) -> str:
    """Returns the tables of files of records, one for each price of scoring."""
    told = []
    for name in names:
        lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        if rates(records):
            told.append(f"Learning rates: {rates(records)}.")
        told += [table(records, ratio) for ratio in (0.05, 0.3)]
    return "\n\n".join(text for text in told if text)


def against_full(records: list[Record], ratio: float, full: str) -> str:
    """Returns what finesieve gives up for its speed: accuracy and cost beside those of full
    training, whose records are another file's.

    Args:
        full: name of that file.
    """
    lines = (FOLDER / f"{full}.jsonl").read_text(encoding="utf-8").splitlines()
    theirs = by_method([json.loads(line) for line in lines], ratio)
    heads = ("set", "times as cheap", "accuracy: full, random head", "full", "finesieve")
    made: list[tuple[str, ...]] = [heads, ("---",) * len(heads)]
    faster, differences = [], []
    for name, runs in by_method(records, ratio).items():
        ours = list(runs["ours"].values())
        plain, fitted = (theirs.get(name, {}).get(method, {}) for method in ("plain", "full"))
        if not plain or not fitted:
            continue
        quality = [fmean(r["accuracy"] for r in x) for x in (plain.values(), fitted.values(), ours)]
        faster.append(1 / fmean(r["cost"] for r in ours))
        differences.append((quality[2] - quality[0], quality[2] - quality[1]))
        made.append((name, f"{faster[-1]:.1f}", *(f"{value:.3f}" for value in quality)))
    plain_points, full_points = (100 * fmean(column) for column in zip(*differences, strict=True))
    words = (
        f"{fmean(faster):.1f} times as cheap as full training on average ({min(faster):.1f} to "
        f"{max(faster):.1f}), with {plain_points:+.1f} points of accuracy against full training "
        f"from a random head, and {full_points:+.1f} against full training with a fitted one."
    )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in made) + "\n\n" + words


def tuned_section(name: str, ratio: float) -> str:
    """Returns two tables of a file of records: each method at the rate that the tuning sets chose,
    and the random subset at its best one on each set."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    told, some = tuned(records, ratio)
    rivals = [record for record in records if record["method"] == "random"]
    ours = [record for record in some if record["method"] != "random"]
    return "\n\n".join(
        (
            f"Learning rates by the tuning sets: {told}.",
            table(some, ratio),
            "finesieve as above, the random subset at whichever of its rates is best on the set:",
            table(best_rival(ours + rivals, ratio), ratio),
            "Against full training, three seeds of it at 2e-4, run on a GPU without clipping:",
            against_full(some, ratio, "suite"),
        )
    )


def floors_section(name: str) -> str:
    """Returns the table of a file of records in which settings of finesieve were compared: one row
    for each price, set and setting."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    heads = ("price", "set", "what", "cost", "trained", "steps", "accuracy", "macro-F1", "loss")
    made = [heads, ("---",) * len(heads)]
    for record in sorted(records, key=lambda r: (r["ratio"], r["set"], -r["cost"], r["loss"])):
        kind, _, setting = record["method"].partition(":")
        cells = [f"{record['ratio']:g}", record["set"], NAMES[kind] + (setting and f", {setting}")]
        cells += [f"{record['cost']:.2f}", f"{record['trained'] / record['examples']:.0%}"]
        cells += [str(record["steps"])]
        cells += [f"{record[what]:.{n}f}" for what, n in QUALITY]
        made.append(tuple(cells))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in made)
