"""Records put together by set and method, and what a group of runs has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from finesieve.cli.comparing.suite import EQUAL
from finesieve.cli.results import Record

RIVAL = "random at equal time"
SAME = "same as full"  # the verdict on runs whose gates never closed
IDLE = "gates stayed open"

Groups = Mapping[str, Sequence[Record]]  # method -> its runs on one set


def mean(runs: Sequence[Record], *path: str) -> float:
    """Returns the mean over runs of the value at this path of their records."""
    values = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value[key]
        values.append(float(value))
    return fmean(values)


def grouped(records: Sequence[Record], role: str = "claim") -> dict[str, dict[str, list[Record]]]:
    """Returns set -> method -> its runs, the failed ones left out.

    Args:
        role: "claim" or "tuning".
    """
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


def off_target(rival: Sequence[Record], ours: Sequence[Record]) -> list[float]:
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


def times(ours: Sequence[Record], rival: Sequence[Record]) -> float:
    """Returns the mean seconds of our runs over those of a rival's."""
    return mean(ours, "seconds", "total") / mean(rival, "seconds", "total")
