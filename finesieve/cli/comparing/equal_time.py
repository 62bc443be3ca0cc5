"""Equal time: rivals that get the total seconds that finesieve took with the same set and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from finesieve.cli.comparing.runs import Cores, Job, Runs
from finesieve.cli.comparing.suite import EQUAL
from finesieve.cli.config import Config
from finesieve.cli.results import Record

# How close the times must be, and how many tries of the rival that may take.
CLOSE, ATTEMPTS = 0.03, 3


class EqualTime:
    """Finds the share of the stream with which a rival takes as long as finesieve.

    Its share is guessed, checked afterwards, and set anew if the time is off by more than `CLOSE`.
    If no try meets the time, the machine has changed its pace since finesieve's run (which may
    be days old, after a crash): that run is repeated, and the rival tried again.

    Args:
        runs: makes the runs.
        points: the point of the grid that serves each method.
        repeats: how often finesieve's run may be repeated; 0 where it is always a fresh one.
    """

    def __init__(self, runs: Runs, points: Mapping[str, Mapping[str, Any]], repeats: int) -> None:
        self._runs, self._points, self._repeats = runs, points, repeats

    def match(self, job: Job, cores: Cores) -> Record:
        """Return the record of the rival's run that is nearest to finesieve's time."""
        our_job, full_job = (
            replace(job, method=m, point=tuple(self._points.get(m, {}).items()))
            for m in ("finesieve", "full")
        )
        runs = self._runs
        ours, best = runs.found(our_job), runs.found(job)
        if ours and best and not runs.is_of(best, self._share_config(job, best, ours)):
            runs.say(f"run again: {job} has another configuration")
            best = None
        if ours is None:
            failed = {**runs.head(job), "failed": "no time to match: finesieve failed"}
            return failed if best else runs.keep(job, failed)  # nothing sound is lost
        for repeat in range(1 + self._repeats):
            if repeat:
                runs.say(
                    f"{job.set} seed {job.seed}: {job.method} is off by more than "
                    f"{CLOSE:.0%}: finesieve's run is repeated"
                )
                anew = runs.record(our_job, runs.config(our_job), cores, again=True)
                if "failed" in anew:
                    break
                ours = anew
            share = self._first_share(job, our_job, ours, runs.found(full_job))
            best = self._nearest(job, ours, best, share, cores)
            if "failed" in best:
                return best
            if off(best, ours) <= CLOSE:
                break
        assert best is not None
        target = ours["seconds"]["total"]
        best["equal_time"].update(target=target, ratio=best["seconds"]["total"] / target)
        return runs.keep(job, best)

    def match_anew(self, done: dict[Job, Record], cores: Cores) -> None:
        """Matches those of a chain's rivals again whose target is no longer finesieve's time.

        Matching one rival may have had finesieve's run repeated; the others were matched with the
        earlier one.

        Args:
            done: the chain's records, updated in place.
            cores: to run on.
        """
        for our_job in [j for j in done if j.method == "finesieve"]:
            for _ in range(1 + self._repeats):  # this may have it repeated once more
                done[our_job] = self._runs.found(our_job) or done[our_job]
                time_now = done[our_job].get("seconds", {}).get("total")
                stale = [
                    job
                    for job, record in done.items()
                    if record.get("equal_time", {}).get("target", time_now) != time_now
                ]
                for job in stale:
                    done[job] = self.match(job, cores)

    def _nearest(
        self, job: Job, ours: Record, best: Record | None, share: float, cores: Cores
    ) -> Record:
        """Return, of a few tries and `best`, an earlier one, the nearest to `ours` in time."""
        attempts = 0 if best is None else int(best["equal_time"].get("attempts", 1))
        for _ in range(ATTEMPTS):
            if best is not None and off(best, ours) <= CLOSE:
                break
            share = round(min(1.0, max(1e-3, share)), 4)
            record = self._try(job, share, ours, cores)
            if "failed" in record:
                return best or record
            attempts += 1
            if best is None or off(record, ours) < off(best, ours):
                best = record
            ratio = record["seconds"]["total"] / ours["seconds"]["total"]
            self._runs.say(
                f"{job}: took {ratio:.2f} of finesieve's time with {share:.0%} of the data"
            )
            if share == 1.0 and ratio < 1:  # everything, and still quicker
                break
            share /= ratio
        assert best is not None
        best["equal_time"]["attempts"] = attempts
        return best

    def _first_share(self, job: Job, our_job: Job, ours: Record, full: Record | None) -> float:
        """Return the share of the stream that should take the rival finesieve's seconds.

        From other seeds, where it was met: the share there, scaled by finesieve's cost in units of
        its own training examples (a ratio, so that a change of the machine's pace between seeds
        cancels). Otherwise from full training's pace, or from finesieve's own; the head start,
        which every method has, is no part of either.
        """
        met = []
        for seed in range(self._runs.suite.seeds):
            theirs = self._runs.found(replace(our_job, seed=seed))
            rival = self._runs.found(replace(job, seed=seed))
            if seed != job.seed and theirs and rival:
                ratio = rival["seconds"]["total"] / theirs["seconds"]["total"]
                met.append(rival["equal_time"]["share"] / ratio / _cost(theirs))
        if met:
            return _cost(ours) * fmean(met)
        if full:
            drawn = float(full["examples"]["drawn"] / full["examples"]["trained"])
            return _without_head_start(ours) / (_without_head_start(full) * drawn)
        return _cost(ours) / float(ours["examples"]["drawn"])

    def _try(self, job: Job, share: float, ours: Record, cores: Cores) -> Record:
        equal = {"target": ours["seconds"]["total"], "share": share}
        config = self._share_config(job, {"equal_time": equal}, ours)
        return self._runs.record(job, config, cores, again=True, equal_time=equal)

    def _share_config(self, job: Job, rival: Record, ours: Record) -> Config:
        """Return the configuration of a rival of this share."""
        share = rival["equal_time"]["share"]
        if EQUAL[job.method] != "truncated":
            return self._runs.config(job, share=share)
        config = self._runs.config(replace(job, method="full"))
        count = int(ours["examples"]["drawn"] // config.epochs)
        return replace(config, limit=max(1, round(share * count)))


def off(rival: Record, ours: Record) -> float:
    """Return how far the rival's total time is from ours, as a share of it."""
    return abs(float(rival["seconds"]["total"]) / float(ours["seconds"]["total"]) - 1)


def _without_head_start(record: Record) -> float:
    """Return a run's total seconds without those that fitting the head took."""
    fitting = (record.get("head_start") or {}).get("seconds", 0.0)
    return float(record["seconds"]["total"]) - float(fitting)


def _cost(record: Record) -> float:
    """Return a run's total time in units of its own time to train on an example."""
    seconds = record["seconds"]
    return float(seconds["total"] / (seconds["train"] / record["examples"]["trained"]))
