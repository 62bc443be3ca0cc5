"""Runs a suite: tune every method over the same grid, freeze the choice, run the claim sets.

All methods of one set and seed run one after another, where there are several workers on the same
cores: what is compared shares its core and its hour.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from statistics import fmean
from typing import Any

from finesieve.cli.comparing.equal_time import EqualTime
from finesieve.cli.comparing.runs import Cores, Job, Point, Runs
from finesieve.cli.comparing.suite import EQUAL
from finesieve.cli.results import Record

Points = Mapping[str, Mapping[str, Any]]


def run_suite(runs: Runs, cores: Sequence[Cores] = ([],), repeats: int = 0) -> list[Record]:
    """Run all that the suite asks for and return the claim's records, the failed ones too.

    Args:
        runs: makes the runs; knows the suite.
        cores: the cores of each worker; as many chains of runs go on at a time. A single worker
            is this thread: a signal then reaches the run itself.
        repeats: how often finesieve's run may be repeated until its rival meets its time.
    """
    suite = runs.suite
    plain = [m for m in suite.methods if m not in EQUAL]
    timed = [m for m in suite.methods if m in EQUAL]
    points = {m: dict(suite.points.get(m, {})) for m in suite.methods}

    def fixed(method: str, point: Point) -> Point:
        """Return what the suite says of a method and the grid does not vary."""
        return tuple((k, v) for k, v in points[method].items() if k not in dict(point))

    if suite.tuning:
        grid = [tuple(p.items()) for p in suite.grid_points()]
        judge = suite.tuned_by
        for group in ([judge],) if judge else (plain, timed):
            chains = [
                [Job("tuning", s, m, 0, (*fixed(m, p), *p))]
                for s in suite.tuning
                for m in group
                for p in grid
            ]
            records = _run_chains(chains, runs, points, cores, repeats)
            for method in group:
                chosen = choose(records, method)
                for other in suite.methods if judge else (method,):
                    points[other].update(chosen)
        for method, point in points.items():
            shown = ", ".join(f"{k} {v}" for k, v in point.items())
            runs.say(f"tuned: {method}: {shown or 'nothing to tune'}")
    claims = [
        [
            Job("claim", s, m, seed, tuple(points[m].items()))
            for m in (*plain, *timed)
            if seed < suite.seeds_for(m)
        ]
        for s in suite.claim
        for seed in range(suite.seeds)
    ]
    return _run_chains(claims, runs, points, cores, repeats)


def _run_chains(
    chains: Iterable[list[Job]], runs: Runs, points: Points, cores: Sequence[Cores], repeats: int
) -> list[Record]:
    """Run these chains, each on one worker's cores; failures are recorded and the rest go on."""
    free: SimpleQueue[Cores] = SimpleQueue()
    for own in cores:
        free.put(own)
    equal_time = EqualTime(runs, points, repeats)

    def run(chain: list[Job]) -> list[Record]:
        own = free.get()
        try:
            done = {
                job: equal_time.match(job, own)
                if job.method in EQUAL
                else runs.record(job, runs.config(job), own)
                for job in chain
            }
            equal_time.match_anew(done, own)
            return list(done.values())
        finally:
            free.put(own)

    if len(cores) == 1:
        return [record for chain in chains for record in run(chain)]
    with ThreadPoolExecutor(len(cores)) as pool:
        return [record for records in pool.map(run, chains) for record in records]


def choose(records: Iterable[Record], method: str) -> dict[str, Any]:
    """Return the grid point with the least held-out loss, relative to the best of each set."""
    losses: dict[str, dict[str, float]] = {}
    shown: dict[str, dict[str, Any]] = {}
    for r in records:
        if r["name"] == method and "failed" not in r:
            key = json.dumps(r["point"], sort_keys=True)
            shown[key] = r["point"]
            losses.setdefault(key, {})[r["set"]] = r["eval"]["loss"]
    if not losses:
        return {}
    sets = {s for found in losses.values() for s in found}
    best = {s: min(found[s] for found in losses.values() if s in found) for s in sets}
    whole = {k: found for k, found in losses.items() if set(found) == sets} or losses
    return shown[min(whole, key=lambda k: fmean(v / best[s] for s, v in whole[k].items()))]
