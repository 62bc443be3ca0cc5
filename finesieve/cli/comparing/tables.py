"""Tables and verdicts from benchmark records: generated, never typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from finesieve.cli.comparing.statistics import Difference, compare_runs, overall, words
from finesieve.cli.results import Record

RIVAL = "random at equal time"
_CLOSE = 0.05  # by how much the seconds of two methods may differ for a verdict


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


def _plain(ours: Sequence[Record], rival: Sequence[Record]) -> bool:
    """With open gates it is plain training: that its run came out better or worse than a subset of
    nearly everything is no merit, unless the two were tuned to different points of the grid."""
    points = [r.get("point") for r in (*ours, *rival)]
    return all(len(r["stages"]) == 1 for r in ours) and points.count(points[0]) == len(points)


def _against(ours: Sequence[Record], rival: Sequence[Record], name: str) -> str:
    """One cell: the paired difference in held-out loss against the rival."""
    # From the seconds: a bench stopped between two tries leaves the one that it had.
    off = [abs(r["seconds"]["total"] / r["equal_time"]["target"] - 1)
           for r in ours if "equal_time" in r]
    if off and max(off) > 0.03:
        return f"time off by up to {max(off):.0%}"
    if name == RIVAL or not rival or not ours:
        return ""
    difference = compare_runs(ours, rival)
    if difference is None:
        return ""
    if name == "finesieve" and _plain(ours, rival):
        return "gates stayed open"
    times = _times(ours, rival)
    # Its seconds are finesieve's: other methods may have taken more or fewer.
    told = difference.verdict if name == "finesieve" or abs(times - 1) <= _CLOSE else (
        f"in {times:.2f} of its seconds")
    return f"{told}: {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


HEADS = ("method", "seeds", "accuracy", "held-out loss", "seconds", "speed-up", "trained", "scored",
         f"loss against {RIVAL} [95 % interval]")


def rows(groups: Mapping[str, Sequence[Record]]) -> list[list[str]]:
    """One set: a row a method, a cell for each of `HEADS`; means over seeds."""
    full, rival = groups.get("full", []), groups.get(RIVAL, [])
    plain = mean(full, "seconds", "total") if full else None
    out = []
    for method, runs in groups.items():
        if not runs:
            out.append([method, "failed", *[""] * (len(HEADS) - 2)])
            continue
        drawn, seconds = mean(runs, "examples", "drawn"), mean(runs, "seconds", "total")
        out.append([
            titled(method, runs), str(len(runs)), f"{mean(runs, 'eval', 'accuracy'):.3f}",
            f"{mean(runs, 'eval', 'loss'):.4f}", f"{seconds:.1f}",
            f"{plain / seconds:.1f}x" if plain else "",
            f"{mean(runs, 'examples', 'trained') / drawn:.0%}",
            f"{mean(runs, 'examples', 'scored') / drawn:.0%}", _against(runs, rival, method),
        ])
    return out


def table(records: Sequence[Record], sets: Sequence[str] | None = None) -> str:
    """Markdown: every claim set, a row a method; means over seeds."""
    groups = grouped(records)
    lines = ["| " + " | ".join(("set", *HEADS)) + " |", "|" + "---|" * (1 + len(HEADS))]
    for name in sets or sorted(groups):
        lines += ["| " + " | ".join((name, *row)) + " |" for row in rows(groups.get(name, {}))]
    return "\n".join(lines)


def verdict(records: Sequence[Record], ours: str = "finesieve", rival: str = RIVAL) -> str:
    """In words, over all claim sets that have both methods."""
    told, relative, halves, times = [], [], [], []
    for groups in grouped(records).values():
        mine, theirs = groups.get(ours, []), groups.get(rival, [])
        difference: Difference | None = compare_runs(mine, theirs) if mine and theirs else None
        if difference is not None:
            plain = ours == "finesieve" and _plain(mine, theirs)
            told.append("tie" if plain else difference.verdict)
            loss = mean(theirs, "eval", "loss")
            relative.append(0.0 if plain else difference.mean / loss)
            halves.append(0.0 if plain else (difference.high - difference.low) / 2 / loss)
            times.append(_times(mine, theirs))
    if not told:
        return f"No set has both {ours} and {rival}."
    if ours != "finesieve" and max(abs(t - 1) for t in times) > _CLOSE:
        took = sorted({f"{t:.2f}" for t in times})
        return (f"{ours} took {' to '.join((took[0], took[-1])[: len(took)])} of the seconds of "
                f"{rival}: no verdict; held-out loss {fmean(relative):+.0%} against it")
    return words(told, overall(relative, halves), ours, rival, relative)


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
        speed.append(1.0 / _times(mine, theirs))
        right.append(difference.mean)
        halves.append((difference.high - difference.low) / 2)
        deciding.append(mean(mine, "seconds", "decide") / mean(mine, "seconds", "total"))
    if not speed:
        return ""
    sets = f"{len(speed)} sets" if len(speed) > 1 else "1 set"
    told = (f"{ours} against full training: {fmean(speed):.2f}x as fast on average over {sets} "
            f"({min(speed):.2f}x to {max(speed):.2f}x); accuracy {100 * fmean(right):+.2f} points")
    if len(speed) > 1:
        total = overall(right, halves)
        told += f" (95 % interval {100 * total.low:+.2f} to {100 * total.high:+.2f})"
    return f"{told}; deciding takes {max(deciding):.1%} of the time at the most."
