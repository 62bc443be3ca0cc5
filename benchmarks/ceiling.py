"""How much there is to win: full training, and finesieve, against a random subset of finesieve's
seconds, from the committed records. A table to print.

    python benchmarks/ceiling.py [SUITE ...]

A filter whose gradient estimates full training's cannot be expected to end below full training's
loss, so full training's difference to the random subset, for which it takes longer, is about the
most that such a filter can win in the same seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from finesieve.cli.comparing.groups import RIVAL, grouped, mean
from finesieve.cli.comparing.statistics import Difference, compare_runs, overall
from finesieve.cli.results import Record, read_all

ROOT = Path(__file__).parent.parent
SUITES = ("wide", "sst2", "research/one-epoch-random-head", "small-batches")
HEADS = ("suite", "set", "gates closed", "full training's seconds", "full training", "finesieve")


def against(runs: list[Record], rival: list[Record]) -> tuple[float, float, str]:
    """Relative difference in held-out loss, half its interval, and both in words."""
    found = compare_runs(runs, rival)
    if found is None:
        return float("nan"), float("nan"), ""
    base = mean(rival, "eval", "loss")
    low, high = found.low / base, found.high / base
    sure = "" if found.verdict in ("tie", "one seed") else f" {found.verdict}"
    return found.mean / base, (high - low) / 2, f"{found.mean / base:+.1%}{sure}"


def told(name: str, values: list[tuple[float, float]]) -> str:
    total: Difference = overall([v for v, _ in values], [h for _, h in values])
    return (
        f"{name}: {total.mean:+.1%} on average over {len(values)} sets "
        f"(95 % interval over sets {total.low:+.1%} to {total.high:+.1%}), lower on "
        f"{sum(v < 0 for v, _ in values)}"
    )


def main(suites: list[str]) -> None:
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    said = []
    for suite in suites or SUITES:
        full, ours = [], []
        for name, methods in sorted(grouped(read_all(ROOT / "results" / suite)[0]).items()):
            rival, plain, mine = (methods.get(m, []) for m in (RIVAL, "full", "finesieve"))
            if not (rival and plain and mine):
                continue
            closed = any(len(r["stages"]) > 1 for r in mine)
            most, here = against(plain, rival), against(mine, rival)
            times = mean(plain, "seconds", "total") / mean(rival, "seconds", "total")
            if closed:
                full.append(most[:2])
                ours.append(here[:2])
            print(
                f"| {suite} | {name} | {'yes' if closed else 'no'} | {times:.2f} of random's | "
                f"{most[2]} | {here[2] if closed else ''} |"
            )
        if len(ours) > 1:
            said += [
                told(f"{suite}, where gates closed: full training", full),
                told(f"{suite}, where gates closed: finesieve", ours),
            ]
    print("\n" + "\n".join(f"- {line}" for line in said))


if __name__ == "__main__":
    main(sys.argv[1:])
