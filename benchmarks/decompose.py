"""Where finesieve's time goes, from the committed records: a table to print.

    python benchmarks/decompose.py [SUITE ...]

Every figure is over plain training of the same set and seed, means over seeds. A survivor's time is
what training took after stage 1, an example; stage 1 is taken at plain training's pace.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from finesieve.cli.results import Record, read_all

ROOT = Path(__file__).parent.parent
SUITES = (
    "sst2",
    "research/one-epoch-random-head",
    "three-epochs",
    "frontier",
    "small-batches",
    "wide",
)
HEADS = (
    "suite",
    "set",
    "stage 1",
    "trained after",
    "scored",
    "training a survivor",
    "scoring one",
    "time: stage 1",
    "+ survivors",
    "+ scoring",
    "+ deciding",
    "= in all",
)


def parts(ours: Record, full: Record) -> list[float]:
    """The figures of one run, in the order of HEADS."""
    count, seconds, moves = ours["examples"], ours["seconds"], ours["stages"]
    n = count["drawn"]
    plain = full["seconds"]["total"] / full["examples"]["drawn"]
    begin = moves[1]["from_example"]
    first = begin * ours["config"]["settings"].get("budget", 1.0)  # a random share with a budget
    after = max(1.0, count["trained"] - first)
    survivor = (seconds["train"] - first * plain) / after / plain
    scoring = seconds["score"] / max(1, count["scored"]) / plain
    whole = n * plain
    return [
        begin / n,
        after / n,
        count["scored"] / n,
        survivor,
        scoring,
        first / n,
        after / n * survivor,
        seconds["score"] / whole,
        (seconds["decide"] + seconds["data"]) / whole,
        seconds["total"] / whole,
    ]


def main(suites: list[str]) -> None:
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    for suite in suites or SUITES:
        runs: dict[str, dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
        for r in read_all(ROOT / "results" / suite)[0]:
            if "failed" not in r and r["role"] == "claim":
                runs[r["set"]][r["name"]][r["seed"]] = r
        for name, methods in sorted(runs.items()):
            full = methods.get("full", {})
            found = [
                parts(r, full.get(seed) or full[min(full)])
                for seed, r in methods.get("finesieve", {}).items()
                if full and len(r["stages"]) > 1
            ]
            if found:
                row = [f"{fmean(x):.2f}" for x in zip(*found, strict=True)]
                print("| " + " | ".join((suite, name, *row)) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
