"""The tables of the records of `benchmarks/gpu_suite.py`: one for each price of scoring."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

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
        ours, rival = runs["ours"], runs["random"]
        difference = relative(ours, rival)

        def mean(runs: Runs, what: str) -> float:
            return fmean(record[what] for record in runs.values())

        def accuracy(method: str, runs: Mapping[str, Runs] = runs) -> str:
            return f"{mean(runs[method], 'accuracy'):.3f}" if method in runs else ""

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
