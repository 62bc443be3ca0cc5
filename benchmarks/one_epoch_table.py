"""The suite one-epoch in a table: a row a set, and what it says over the sets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from finesieve.cli.comparing.groups import RIVAL, grouped, mean
from finesieve.cli.comparing.verdict import verdict
from finesieve.cli.results import Record

WITHOUT = "full without head start"
SHOWN = (WITHOUT, "full", RIVAL, "finesieve")
HEADS = (
    "set", "seeds", "seconds: full, random head", "finesieve", "speed-up", "trained", "scored",
    "accuracy: full, random head", "full", "random subset", "finesieve",
    "macro-F1: random subset", "finesieve", "loss: full, random head", "full", "random subset",
    "finesieve", "finesieve / random",
)  # fmt: skip


def rows_of(records: Sequence[Record], sets: Sequence[str]) -> dict[str, dict[str, list[Record]]]:
    """Returns set -> method -> its runs with the seeds that all four methods have."""
    found = {}
    for name, methods in grouped(records).items():
        runs = {method: methods.get(method, []) for method in SHOWN}
        seeds = set.intersection(*({r["seed"] for r in some} for some in runs.values()))
        if name in sets and seeds:
            found[name] = {m: [r for r in x if r["seed"] in seeds] for m, x in runs.items()}
    return {name: found[name] for name in sets if name in found}


def section(records: Sequence[Record], sets: Sequence[str]) -> str:
    """Returns the table, and sentences on speed, accuracy and the rival."""
    found = rows_of(records, sets)
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    speeds, gains, fitted, ratios = [], [], [], []
    for name, runs in found.items():
        ours, rival, plain = runs["finesieve"], runs[RIVAL], runs[WITHOUT]
        drawn = mean(ours, "examples", "drawn")
        seconds = [mean(x, "seconds", "total") for x in (plain, ours)]
        accuracy = [mean(runs[m], "eval", "accuracy") for m in SHOWN]
        loss = [mean(runs[m], "eval", "loss") for m in SHOWN]
        speeds.append(seconds[0] / seconds[1])
        gains.append(accuracy[3] - accuracy[0])
        fitted.append(accuracy[3] - accuracy[1])
        ratios.append(loss[3] / loss[2])
        row = (
            name,
            str(len(ours)),
            *(f"{x:.1f}" for x in seconds),
            f"{speeds[-1]:.1f}x",
            *(f"{mean(ours, 'examples', kind) / drawn:.0%}" for kind in ("trained", "scored")),
            *(f"{x:.3f}" for x in accuracy),
            *(f"{mean(x, 'eval', 'macro_f1'):.3f}" for x in (rival, ours)),
            *(f"{x:.3f}" for x in loss),
            f"{ratios[-1] - 1.0:+.0%}",
        )
        lines.append("| " + " | ".join(row) + " |")
    if not found:
        return ""
    lower = sum(ratio < 1.0 for ratio in ratios)
    told = (
        f"Over {len(found)} sets finesieve was {fmean(speeds):.2f} times as fast as full training "
        f"from a random head on average ({min(speeds):.2f} to {max(speeds):.2f}), with "
        f"{100 * fmean(gains):+.1f} points of accuracy; against full training with the fitted head "
        f"{100 * fmean(fitted):+.1f} points. Its loss was lower than that of a random subset of "
        f"the same seconds on {lower} of {len(found)}."
    )
    judged = verdict([r for x in found.values() for m in x.values() for r in m])
    return "\n".join(lines) + f"\n\n{told}\n\n{judged}"
