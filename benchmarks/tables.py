"""Tables from the committed results: never typed.

    python benchmarks/tables.py            prints them
    python benchmarks/tables.py --write    puts them into README.md, between its markers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results: benchmarks/tables.py -->", "<!-- end of results -->"
ORDER = ("sst2", "clickbait", "snips", "trec6", "banking77", "mrpc", "emotion")
NAMES = ("full", "random at equal time", "finesieve", "paper")


def mean(runs: list[dict[str, Any]], *path: str) -> float:
    values = []
    for value in runs:
        for key in path:
            value = value[key]
        values.append(value)
    return fmean(values)


def found_runs(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """A method's runs; for the random subset those at its better learning rate."""
    named = [r for r in runs if r["name"] == name]
    rates = sorted({r["config"]["lr"] for r in named})
    by_rate = [[r for r in named if r["config"]["lr"] == lr] for lr in rates]
    return min(by_rate, key=lambda group: mean(group, "eval", "loss"), default=[])


def verdict(groups: dict[str, list[dict[str, Any]]]) -> str:
    """finesieve against random at equal time, on held-out loss."""
    ours, rival = groups["finesieve"], groups["random at equal time"]
    if all(len(r["stages"]) == 1 for r in ours):
        return "gates stayed open"
    difference = mean(ours, "eval", "loss") - mean(rival, "eval", "loss")
    pairs = [
        a["eval"]["loss"] - b["eval"]["loss"]
        for a in ours for b in rival if a["seed"] == b["seed"]
    ]
    if all(p < 0 for p in pairs):
        return "better"
    if all(p > 0 for p in pairs):
        return "worse"
    return "mixed, " + ("better" if difference < 0 else "worse") + " on average"


def rows(name: str) -> list[str]:
    record = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    groups = {m: found for m in NAMES if (found := found_runs(record["runs"], m))}
    full = mean(groups["full"], "seconds", "total")
    out = []
    for method, runs in groups.items():
        drawn, seconds = mean(runs, "examples", "drawn"), mean(runs, "seconds", "total")
        first = method == "full"
        label = f"{name} ({drawn:,.0f})" if first else ""
        n = f"{runs[0]['eval']['n']:,}" if first else ""
        word = verdict(groups) if method == "finesieve" else ""
        out.append(
            f"| {label} | {n} | {method} | {len(runs)} | {mean(runs, 'eval', 'accuracy'):.3f} | "
            f"{mean(runs, 'eval', 'loss'):.3f} | {seconds:.0f} | {full / seconds:.1f}x | "
            f"{mean(runs, 'examples', 'trained') / drawn:.0%} | "
            f"{mean(runs, 'examples', 'scored') / drawn:.0%} | {word} |"
        )
    return out


def table() -> str:
    head = ("| set (examples) | n | method | seeds | accuracy | held-out loss | seconds | speed-up "
            "| trained | scored | against random |")
    lines = [head, "|" + "---|" * 11]
    for name in ORDER:
        if (ROOT / "results" / f"{name}.json").exists():
            lines += rows(name)
    return "\n".join(lines)


def written(text: str) -> str:
    """README.md with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    if args.write:
        readme.write_text(written(readme.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
