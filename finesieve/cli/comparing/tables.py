"""Tables and the verdict, made of records; the same for a comparison, a benchmark and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from finesieve.cli.comparing.equal_time import CLOSE
from finesieve.cli.comparing.statistics import (
    SAME,
    Difference,
    broad,
    compare_runs,
    overall,
    words,
)
from finesieve.cli.comparing.suite import EQUAL
from finesieve.cli.results import Record

RIVAL = "random at equal time"
_CLOSE = 0.05  # by how much the seconds of two methods may differ for a verdict
SEEDS = 3  # fewer prove little
IDLE = "gates stayed open"

Groups = Mapping[str, Sequence[Record]]  # method -> its runs on one set


def mean(runs: Sequence[Record], *path: str) -> float:
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value[key]
        values.append(float(value))
    return fmean(values)


def titled(name: str, runs: Sequence[Record]) -> str:
    """The method's name for a table, with the help that it had and that is no selection."""
    fitted = [bool((run.get("head_start") or {}).get("fitted")) for run in runs]
    if not any(fitted):
        return name
    return f"{name}, fitted head" + ("" if all(fitted) else f" in {sum(fitted)} of {len(runs)}")


def grouped(records: Sequence[Record], role: str = "claim") -> dict[str, dict[str, list[Record]]]:
    """Set -> method -> its runs, failed ones left out."""
    out: dict[str, dict[str, list[Record]]] = {}
    for r in records:
        if r.get("role") == role:
            runs = out.setdefault(r["set"], {}).setdefault(r["name"], [])
            if "failed" not in r:
                runs.append(r)
    return out


def idle(ours: Sequence[Record], rival: Sequence[Record] = ()) -> str:
    """Return `SAME` if no gate ever closed in these runs of a method and all was trained on.

    Such runs are plain training: that they came out better or worse than a subset of nearly
    everything, or quicker by the clock, is no merit. `IDLE` if no gate closed and only a part was
    trained on (a budget's random share); "" if a gate closed, if the method has none that close,
    or if the two were tuned to different points of the grid, so that the difference counts.
    """
    points = [r.get("point") for r in (*ours, *rival)]
    if not ours or ours[0]["name"] in ("full", *EQUAL) or points.count(points[0]) < len(points):
        return ""
    if any(
        len(r["stages"]) > 1 or r["stages"][0].get("stage", 1) != 1 or r.get("subset") is not None
        for r in ours
    ):
        return ""
    whole = all(r["examples"]["trained"] >= 0.99 * r["examples"]["drawn"] for r in ours)
    return SAME if whole else IDLE


def _against(groups: Groups, name: str) -> str:
    """Return one cell: the paired difference in held-out loss against the rival."""
    ours, rival = groups[name], groups.get(RIVAL, [])
    if name in EQUAL:
        off = max(_off_target(ours, groups.get("finesieve", [])), default=0.0)
        if off > CLOSE:
            return f"time off by up to {off:.0%}"
    if name == RIVAL or not rival:
        return ""
    difference = compare_runs(ours, rival)
    if difference is None:
        return ""
    if found := idle(ours, rival):
        return found
    times = _times(ours, rival)
    # Its seconds are finesieve's: other methods may have taken more or fewer.
    told = (
        difference.verdict
        if name == "finesieve" or abs(times - 1) <= _CLOSE
        else (f"in {times:.2f} of its seconds")
    )
    return f"{told}: {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def _off_target(rival: Sequence[Record], ours: Sequence[Record]) -> list[float]:
    """Return for each run at equal time how far its seconds are from those that it was given."""
    # From the seconds: a bench stopped between two tries leaves the one that it had. The folders of
    # a comparison do not say what was given: it is what finesieve took with the same seed.
    seconds = {r["seed"]: r["seconds"]["total"] for r in ours}
    out = []
    for run in rival:
        target = run.get("equal_time", {}).get("target") or seconds.get(run["seed"])
        if target:
            out.append(abs(run["seconds"]["total"] / target - 1))
    return out


HEADS = (
    "method",
    "seeds",
    "accuracy",
    "held-out loss",
    "seconds",
    "speed-up",
    "trained",
    "scored",
    f"loss against {RIVAL} [95 % interval]",
)


def rows(groups: Groups, spread: bool = False) -> list[list[str]]:
    """Return a row a method of one set, a cell for each of `HEADS`; means over seeds.

    spread: adds the standard deviation over seeds to accuracy and loss, where there are several.
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
                f"{mean(runs, 'eval', 'accuracy'):.3f}" + _spread(runs, "accuracy", spread),
                f"{mean(runs, 'eval', 'loss'):.4f}" + _spread(runs, "loss", spread),
                f"{seconds:.1f}",
                speed,
                f"{mean(runs, 'examples', 'trained') / drawn:.0%}",
                f"{mean(runs, 'examples', 'scored') / drawn:.0%}",
                _against(groups, method),
            ]
        )
    return out


def _spread(runs: Sequence[Record], what: str, shown: bool) -> str:
    wanted = shown and len(runs) > 1
    return f" ± {stdev(r['eval'][what] for r in runs):.3f}" if wanted else ""


def set_table(records: Sequence[Record]) -> str:
    """Return Markdown: the methods of a single set, with the spread over seeds.

    The last column, which is about the rival, is left out where there is none.
    """
    (groups,) = grouped(records).values()
    cut = len(HEADS) if groups.get(RIVAL) else len(HEADS) - 1
    lines = ["| " + " | ".join(HEADS[:cut]) + " |", "|" + "---|" * cut]
    lines += ["| " + " | ".join(row[:cut]) + " |" for row in rows(groups, spread=True)]
    return "\n".join(lines)


def table(records: Sequence[Record], sets: Sequence[str] | None = None) -> str:
    """Markdown: every claim set, a row a method; means over seeds."""
    groups = grouped(records)
    lines = ["| " + " | ".join(("set", *HEADS)) + " |", "|" + "---|" * (1 + len(HEADS))]
    for name in sets or sorted(groups):
        lines += ["| " + " | ".join((name, *row)) + " |" for row in rows(groups.get(name, {}))]
    return "\n".join(lines)


def verdict(records: Sequence[Record], ours: str = "finesieve", rival: str = RIVAL) -> str:
    """Return in words what all claim sets that have both methods say, and what to beware of."""
    told, relative, halves, times = [], [], [], []
    few: list[str] = []  # sets of few seeds
    off: dict[str, float] = {}  # by how much the rival's time is off, on which sets
    for name, groups in grouped(records).items():
        mine, theirs = groups.get(ours, []), groups.get(rival, [])
        difference: Difference | None = compare_runs(mine, theirs) if mine and theirs else None
        if difference is None:
            continue
        plain = idle(mine, theirs)
        told.append({SAME: SAME, IDLE: "tie"}.get(plain, difference.verdict))
        loss = mean(theirs, "eval", "loss")
        relative.append(0.0 if plain else difference.mean / loss)
        halves.append(0.0 if plain else (difference.high - difference.low) / 2 / loss)
        times.append(_times(mine, theirs))
        if difference.seeds < SEEDS:
            few.append(name)
        far = max(_off_target(theirs, mine), default=0.0) if ours == "finesieve" else 0.0
        if far > CLOSE:
            off[name] = far
    if not told:
        return f"No set has both {ours} and {rival}."
    if ours != "finesieve" and max(abs(t - 1) for t in times) > _CLOSE:
        took = sorted({f"{t:.2f}" for t in times})
        return (
            f"{ours} took {' to '.join((took[0], took[-1])[: len(took)])} of the seconds of "
            f"{rival}: no verdict; held-out loss {fmean(relative):+.0%} against it"
        )
    lines = [words(told, overall(relative, halves), ours, rival, relative)]

    def where(sets: Sequence[str]) -> str:
        return f" on {', '.join(sets)}" if len(told) > 1 else ""

    if few and not broad(told):  # which says so itself
        lines.append(f"Caution: fewer than {SEEDS} seeds{where(few)}: an indication, no proof.")
    if off:
        lines.append(
            f"Caution: the seconds of {rival} are off by up to {max(off.values()):.0%}"
            f"{where([*off])}, so that is no comparison at equal time (a noisy machine?)."
        )
    return " ".join(lines)


def _times(ours: Sequence[Record], rival: Sequence[Record]) -> float:
    return mean(ours, "seconds", "total") / mean(rival, "seconds", "total")


def saved(records: Sequence[Record], ours: str = "finesieve", full: str = "full") -> str:
    """In words, over all claim sets that have both: time and accuracy against full training, and
    what deciding takes. Empty if no set has both."""
    speed, right, halves, deciding = [], [], [], []
    for groups in grouped(records).values():
        mine, theirs = groups.get(ours, []), groups.get(full, [])
        difference = compare_runs(mine, theirs, "right") if mine and theirs else None
        if difference is None:
            continue
        quicker = 1.0 / _times(mine, theirs)
        # Runs that were plain training are quicker by the clock's noise alone.
        speed.append(min(1.0, quicker) if idle(mine, theirs) == SAME else quicker)
        right.append(difference.mean)
        halves.append((difference.high - difference.low) / 2)
        deciding.append(mean(mine, "seconds", "decide") / mean(mine, "seconds", "total"))
    if not speed:
        return ""
    sets = f"{len(speed)} sets" if len(speed) > 1 else "1 set"
    told = (
        f"{ours} against full training: {fmean(speed):.2f}x as fast on average over {sets} "
        f"({min(speed):.2f}x to {max(speed):.2f}x); accuracy {100 * fmean(right):+.2f} points"
    )
    if len(speed) > 1:
        total = overall(right, halves)
        told += f" (95 % interval {100 * total.low:+.2f} to {100 * total.high:+.2f})"
    return f"{told}; deciding takes {max(deciding):.1%} of the time at the most."
