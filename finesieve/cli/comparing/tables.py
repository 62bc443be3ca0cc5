"""Tables made of records; the same for a comparison, a benchmark and a report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev

from finesieve.cli.comparing.equal_time import CLOSE
from finesieve.cli.comparing.groups import (
    RIVAL,
    SAME,
    Groups,
    grouped,
    idle,
    mean,
    off_target,
    times,
)
from finesieve.cli.comparing.statistics import compare_runs
from finesieve.cli.comparing.suite import EQUAL
from finesieve.cli.comparing.verdict import NEAR
from finesieve.cli.measures import ACCURACY, LOSS, RMSE, Measure
from finesieve.cli.results import Record
from finesieve.cli.tasks.registry import FIGURES, TASKS


def titled(name: str, runs: Sequence[Record]) -> str:
    """Returns the method's name for a table, with the help that it had and that is no selection."""
    fitted = [bool((run.get("head_start") or {}).get("fitted")) for run in runs]
    if not any(fitted):
        return name
    return f"{name}, fitted head" + ("" if all(fitted) else f" in {sum(fitted)} of {len(runs)}")


def _against(groups: Groups, name: str) -> str:
    """Return one cell: the paired difference in held-out loss against the rival."""
    ours, rival = groups[name], groups.get(RIVAL, [])
    if name in EQUAL:
        off = max(off_target(ours, groups.get("finesieve", [])), default=0.0)
        if off > CLOSE:
            return f"time off by up to {off:.0%}"
    if name == RIVAL or not rival:
        return ""
    difference = compare_runs(ours, rival)
    if difference is None:
        return ""
    if found := idle(ours, rival):
        return found
    took = times(ours, rival)
    # Its seconds are finesieve's: other methods may have taken more or fewer.
    told = (
        difference.verdict
        if name == "finesieve" or abs(took - 1) <= NEAR
        else (f"in {took:.2f} of its seconds")
    )
    return f"{told}: {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


HEADS = (
    "method",
    "seeds",
    *(m.head for m in FIGURES),
    "held-out loss",
    "seconds",
    "speed-up",
    "trained",
    "scored",
    f"loss against {RIVAL} [95 % interval]",
)


def rows(groups: Groups, spread: bool = False) -> list[list[str]]:
    """Return a row a method of one set, a cell for each of `HEADS`; means over seeds.

    Cells of figures that a record has not are empty: accuracy of a regression, or macro-F1 of
    earlier versions.

    Args:
        spread: adds the standard deviation over seeds to figures and loss, where there are
            several.
    """
    full = groups.get("full", [])
    plain = mean(full, "seconds", "total") if full else None
    out = []
    for method, runs in groups.items():
        if not runs:
            out.append([method, "failed", *[""] * (len(HEADS) - 2)])
            continue
        drawn, seconds = mean(runs, "examples", "drawn"), mean(runs, "seconds", "total")
        speed = f"{plain / seconds:.1f}x" if plain else ""
        if plain and plain > seconds and idle(runs, full) == SAME:  # slower, it shows
            speed = SAME
        out.append(
            [
                titled(method, runs),
                str(len(runs)),
                *(_figure(runs, one, spread) for one in (*FIGURES, LOSS)),
                f"{seconds:.1f}",
                speed,
                f"{mean(runs, 'examples', 'trained') / drawn:.0%}",
                f"{mean(runs, 'examples', 'scored') / drawn:.0%}",
                _against(groups, method),
            ]
        )
    return out


def _figure(runs: Sequence[Record], what: Measure, spread: bool) -> str:
    if any(what.key not in r["eval"] for r in runs):
        return ""
    shown = what.shown(mean(runs, "eval", what.key))
    if not spread or len(runs) < 2:
        return shown
    form = what.form if what is RMSE else ".3f"
    return f"{shown} ± {stdev(r['eval'][what.key] for r in runs):{form}}"


def set_table(records: Sequence[Record]) -> str:
    """Return Markdown: the methods of a single set, with the spread over seeds.

    The last column, which is about the rival, is left out where there is none.
    """
    (groups,) = grouped(records).values()
    cut = len(HEADS) if groups.get(RIVAL) else len(HEADS) - 1
    return _markdown(HEADS[:cut], [row[:cut] for row in rows(groups, spread=True)])


def screen_table(records: Sequence[Record], width: int = 80) -> str:
    """Returns plain text for a terminal: a column for each method of a single set.

    The differences from the rival are left to the verdict, which says them in words.

    Args:
        width: of the terminal, in characters; methods that do not fit go below the others.
    """
    (groups,) = grouped(records).values()
    lines = [row[:-1] for row in rows(groups, spread=True)]
    shown = [i for i in new_columns(HEADS[:-1], lines) if i > 0]
    first = max(len(HEADS[i]) for i in shown)
    blocks: list[list[list[str]]] = [[]]
    for line in lines:
        taken = first + sum(2 + max(map(len, other)) for other in (*blocks[-1], line))
        if blocks[-1] and taken > width:
            blocks.append([])
        blocks[-1].append(line)
    told = []
    for block in blocks:
        widths = [max(map(len, line)) for line in block]
        for i in (0, *shown):
            cells = (line[i].rjust(wide) for line, wide in zip(block, widths, strict=True))
            told.append("  ".join((("" if i == 0 else HEADS[i]).ljust(first), *cells)).rstrip())
        told.append("")
    return "\n".join(told[:-1])


def table(records: Sequence[Record], sets: Sequence[str] | None = None) -> str:
    """Returns a Markdown table: every claim set, a row a method; means over seeds."""
    groups = grouped(records)
    lines = [[name, *row] for name in sets or sorted(groups) for row in rows(groups.get(name, {}))]
    return _markdown(("set", *HEADS), lines)


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table, without the columns that old records leave empty (`new_columns`)."""
    shown = new_columns(heads, lines)
    out = [[heads[i] for i in shown], *([line[i] for i in shown] for line in lines)]
    rule = "|" + "---|" * len(shown)
    made = ["| " + " | ".join(cells) + " |" for cells in out]
    return "\n".join([made[0], rule, *made[1:]])


def new_columns(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[int]:
    """Return the places of the columns to show: figures that no record has are left out, but
    accuracy only where another task's stand in its place."""
    filled = {h for i, h in enumerate(heads) if any(line[i] for line in lines)}
    optional = {m.head for m in FIGURES}
    if not filled & (optional - {m.head for m in TASKS["classification"].figures}):
        optional.remove(ACCURACY.head)
    return [i for i, h in enumerate(heads) if h in filled or h not in optional]
