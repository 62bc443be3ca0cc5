"""Runs a suite: tune every method over the same grid, freeze the choice, run the claim sets.

One process a run, pinned to its own cores, a fixed number of threads. All methods of one set and
seed run one after another on the same cores: what is compared shares its core and its hour. What
lies in the output folder already, whole and of the same configuration, is not run again, so a crash
costs one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from typing import Any

from finesieve.cli.comparing.suite import EQUAL, Files, Suite
from finesieve.cli.config import Config
from finesieve.cli.results import Record, read_record, write_record
from finesieve.cli.training.models import pick_device, precision_note
from finesieve.errors import ConfigError

# Equal-time pairs: how close; how many tries of the rival; how often finesieve's run is repeated.
CLOSE, ATTEMPTS, REPEATS = 0.03, 3, 2
# Fields of the configuration that older records lack, at defaults that change nothing.
NEUTRAL = {"lora": 0, "head_start": 0, "clock": "wall"}
Say = Callable[[str], None]
Point = tuple[tuple[str, Any], ...]
Cores = list[int]


@dataclass(frozen=True)
class Job:
    """One run: which set, method, seed, point of the grid, and what for."""

    role: str  # "tuning" or "claim"
    set: str
    method: str
    seed: int
    point: Point

    def file(self, output: Path) -> Path:
        words = [self.method.replace(" ", "-").replace(":", "-"),
                 *(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.point)]
        return output / self.role / self.set / f"{'.'.join(words)}.seed{self.seed}.json"


class Bench:
    """A suite on a data folder. `run` returns all records, the failed ones too."""

    worker: tuple[str, ...] = ("-m", "finesieve.cli.worker")  # the program of one run

    def __init__(
        self,
        suite: Suite,
        data_dir: str,
        output: str,
        workers: int | None = None,
        command: str = "",
        say: Say = print,
    ) -> None:
        if not Path(data_dir).is_dir():
            raise ConfigError(f"--data-dir {data_dir} is no folder")
        self.suite, self.output, self.command, self.say = suite, Path(output), command, say
        self.data_dir = Path(data_dir).resolve()
        self.threads = int(suite.config.get("threads") or 1)
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        most = max(1, len(cpus) // self.threads)
        count = workers or most
        # Each worker has cores of its own: runs side by side must not steal each other's time.
        self._cores: SimpleQueue[Cores] = SimpleQueue()
        for i in range(count):
            own = cpus[i * self.threads : (i + 1) * self.threads]
            self._cores.put(own if len(own) == self.threads and count <= most else [])
        self.workers = count
        missing = [
            str(path)
            for name in {*suite.tuning, *suite.claim}
            for path in (suite.sets[name]["train"], *suite.sets[name].get("eval", ()))
            if path not in suite.derived and not (self.data_dir / path).exists()
        ]
        if missing:
            raise ConfigError(f"the data folder {data_dir} lacks {', '.join(sorted(missing))}")

    def run(self) -> list[Record]:
        with self._alone():
            return self._run()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """`ConfigError` while another bench, still alive, writes into the same folder."""
        self.output.mkdir(parents=True, exist_ok=True)
        mark = self.output / ".running"
        owner = mark.read_text(encoding="utf-8").strip() if mark.exists() else ""
        if owner.isdigit() and int(owner) != os.getpid() and _alive(int(owner)):
            raise ConfigError(
                f"{self.output} is being written by another bench (process {owner}): wait for it, "
                "or choose another folder"
            )
        mark.write_text(str(os.getpid()), encoding="utf-8")
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _run(self) -> list[Record]:
        suite = self.suite
        asked = {str({**suite.config, **suite.sets[s]}.get("precision")) for s in suite.claim}
        for note in {precision_note(p, pick_device("auto")) for p in asked} - {None}:
            self.say(str(note))
        with tempfile.TemporaryDirectory() as scratch:
            self._scratch = Path(scratch)
            self._files = Files(suite, self.data_dir, self._scratch)
            plain = [m for m in suite.methods if m not in EQUAL]
            timed = [m for m in suite.methods if m in EQUAL]
            points = {m: dict(suite.points.get(m, {})) for m in suite.methods}

            def fixed(method: str, point: Point) -> Point:
                """What the suite says of a method and the grid does not vary."""
                return tuple((k, v) for k, v in points[method].items() if k not in dict(point))

            if suite.tuning:
                grid = [tuple(p.items()) for p in suite.grid_points()]
                judge = suite.tuned_by
                for group in ([judge],) if judge else (plain, timed):
                    chains = [[Job("tuning", s, m, 0, (*fixed(m, p), *p))]
                              for s in suite.tuning for m in group for p in grid]
                    records = self._all(chains, points)
                    for method in group:
                        chosen = choose(records, method)
                        for other in suite.methods if judge else (method,):
                            points[other].update(chosen)
                for method, point in points.items():
                    shown = ", ".join(f"{k} {v}" for k, v in point.items())
                    self.say(f"tuned: {method}: {shown or 'nothing to tune'}")
            return self._all(
                [[Job("claim", s, m, seed, tuple(points[m].items()))
                  for m in (*plain, *timed) if seed < suite.seeds_for(m)]
                 for s in suite.claim for seed in range(suite.seeds)], points)

    def _all(
        self, chains: Iterable[list[Job]], points: Mapping[str, Mapping[str, Any]]
    ) -> list[Record]:
        """These chains of runs, `workers` at a time, each on cores of its own; failures are
        recorded and the rest go on."""

        def run(chain: list[Job]) -> list[Record]:
            cores = self._cores.get()
            try:
                done = {job: self._one(job, points, cores) for job in chain}
                self._again_in_time(done, points, cores)
                return list(done.values())
            finally:
                self._cores.put(cores)

        with ThreadPoolExecutor(self.workers) as pool:
            return [record for records in pool.map(run, chains) for record in records]

    def _one(self, job: Job, points: Mapping[str, Mapping[str, Any]], cores: Cores) -> Record:
        if job.method in EQUAL:
            return self._equal_time(job, points, cores)
        return self._recorded(job, self._config(job), cores)

    def _again_in_time(
        self, done: dict[Job, Record], points: Mapping[str, Mapping[str, Any]], cores: Cores
    ) -> None:
        """One rival may have had finesieve's run repeated: the others must match the new time."""
        for our_job in [j for j in done if j.method == "finesieve"]:
            for _ in range(1 + REPEATS):  # matching one anew may have it repeated once more
                done[our_job] = self._found(our_job) or done[our_job]
                time_now = done[our_job].get("seconds", {}).get("total")
                stale = [job for job, record in done.items()
                         if record.get("equal_time", {}).get("target", time_now) != time_now]
                for job in stale:
                    done[job] = self._equal_time(job, points, cores)

    def _config(self, job: Job, **settings: Any) -> Config:
        return self.suite.config_of(job.set, job.method, job.seed, dict(job.point), self._files,
                                    **settings)

    # ---- one run

    def _recorded(
        self, job: Job, config: Config, cores: Cores, again: bool = False, **more: Any
    ) -> Record:
        """The run's record from its file, or else (or `again`) run it and write the file."""
        path = job.file(self.output)
        if path.exists() and not again:
            record, wrong = read_record(path)
            if record is not None and self._is_of(record, config) and "failed" not in record:
                return record
            self.say(f"run again: {wrong or path.name + ' has another configuration or failed'}")
        start = time.time()
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start))
        summary = self._process(config, cores)
        record = {
            **self._head(job), "cpus": cores, "began": began, **more,
            **self._files.hidden({**summary, "config": config.as_dict()}),
        }
        told = record.get("failed") or (
            f"accuracy {record['eval']['accuracy']:.4f}, loss {record['eval']['loss']:.4f}, "
            f"{record['seconds']['total']:.1f} s"
        )
        self.say(f"{job.role} {job.set} {job.method} {dict(job.point)} seed {job.seed}: {told} "
                 f"({time.time() - start:.0f} s in all)")
        if again and "failed" in record and self._found(job):
            return record  # nothing sound is lost
        return write_record(path, record)

    def _head(self, job: Job) -> Record:
        return {"suite": self.suite.name, "role": job.role, "set": job.set, "name": job.method,
                "seed": job.seed, "point": dict(job.point), "command": self.command}

    def _process(self, config: Config, cores: Cores) -> dict[str, Any]:
        """A worker's summary, or {"failed": reason}."""
        name = f"run-{id(config)}-{time.monotonic_ns()}"
        spec, out = self._scratch / f"{name}.spec", self._scratch / f"{name}.out"
        spec.write_text(json.dumps({"config": config.as_dict(), "cpus": cores}))
        threads = str(config.threads or self.threads)
        done = subprocess.run(
            [sys.executable, *self.worker, str(spec), str(out)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True, text=True, errors="replace", check=False,
        )
        if out.exists():
            summary: dict[str, Any] = json.loads(out.read_text())
            return summary
        if done.returncode < 0:
            hint = ", probably out of memory" if done.returncode == -9 else ""
            return {"failed": f"ended by signal {-done.returncode}{hint}"}
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"exit status {done.returncode}: {last}"}

    # ---- equal time

    def _equal_time(
        self, job: Job, points: Mapping[str, Mapping[str, Any]], cores: Cores
    ) -> Record:
        """A rival given the total seconds that finesieve took with the same set and seed.

        Its share is guessed, checked afterwards, and set anew if the time is off by more than 3 %.
        If no try meets the time, the machine has changed its pace since finesieve's run (which may
        be days old, after a crash): that run is repeated, and the rival tried again.
        """
        our_job, full_job = (
            replace(job, method=m, point=tuple(points[m].items())) for m in ("finesieve", "full")
        )
        ours, best = self._found(our_job), self._found(job)
        path = job.file(self.output)
        if ours and best and not self._is_of(best, self._share_config(job, best, ours)):
            self.say(f"run again: {path.name} has another configuration")
            best = None
        if ours is None:
            failed = {**self._head(job), "failed": "no time to match: finesieve failed"}
            return failed if best else write_record(path, failed)  # nothing sound is lost
        for repeat in range(1 + REPEATS):
            if repeat:
                self.say(f"{job.set} seed {job.seed}: {job.method} is off by more than {CLOSE:.0%}:"
                         " finesieve's run is repeated")
                anew = self._recorded(our_job, self._config(our_job), cores, again=True)
                if "failed" in anew:
                    break
                ours = anew
            share = self._first_share(job, our_job, ours, self._found(full_job))
            best = self._nearest(job, ours, best, share, cores)
            if "failed" in best:
                return best
            if _off(best, ours) <= CLOSE:
                break
        assert best is not None
        target = ours["seconds"]["total"]
        best["equal_time"].update(target=target, ratio=best["seconds"]["total"] / target)
        return write_record(path, best)

    def _nearest(
        self, job: Job, ours: Record, best: Record | None, share: float, cores: Cores
    ) -> Record:
        """Of a few tries and `best`, an earlier one, the nearest to `ours` in time."""
        attempts = 0 if best is None else int(best["equal_time"].get("attempts", 1))
        for _ in range(ATTEMPTS):
            if best is not None and _off(best, ours) <= CLOSE:
                break
            share = round(min(1.0, max(1e-3, share)), 4)
            record = self._share_run(job, share, ours, cores)
            if "failed" in record:
                return best or record
            attempts += 1
            if best is None or _off(record, ours) < _off(best, ours):
                best = record
            ratio = record["seconds"]["total"] / ours["seconds"]["total"]
            if share == 1.0 and ratio < 1:  # everything, and still quicker
                break
            share /= ratio
        assert best is not None
        best["equal_time"]["attempts"] = attempts
        return best

    def _first_share(self, job: Job, our_job: Job, ours: Record, full: Record | None) -> float:
        """The share of the stream that should take the rival finesieve's seconds.

        From other seeds, where it was met: the share there, scaled by finesieve's cost in units of
        its own training examples (a ratio, so that a change of the machine's pace between seeds
        cancels). Otherwise from full training's pace, or from finesieve's own.
        """
        met = []
        for seed in range(self.suite.seeds):
            theirs = self._found(replace(our_job, seed=seed))
            rival = self._found(replace(job, seed=seed))
            if seed != job.seed and theirs and rival:
                ratio = rival["seconds"]["total"] / theirs["seconds"]["total"]
                met.append(rival["equal_time"]["share"] / ratio / _cost(theirs))
        if met:
            return _cost(ours) * fmean(met)
        if full:
            drawn = full["examples"]["drawn"] / full["examples"]["trained"]
            return float(ours["seconds"]["total"] / (full["seconds"]["total"] * drawn))
        return _cost(ours) / float(ours["examples"]["drawn"])

    def _share_run(self, job: Job, share: float, ours: Record, cores: Cores) -> Record:
        equal = {"target": ours["seconds"]["total"], "share": share}
        config = self._share_config(job, {"equal_time": equal}, ours)
        return self._recorded(job, config, cores, again=True, equal_time=equal)

    def _share_config(self, job: Job, rival: Record, ours: Record) -> Config:
        """The configuration of a rival of this share."""
        share = rival["equal_time"]["share"]
        if EQUAL[job.method] != "truncated":
            return self._config(job, share=share)
        config = self._config(replace(job, method="full"))
        count = int(ours["examples"]["drawn"] // config.epochs)
        return replace(config, limit=max(1, round(share * count)))

    def _is_of(self, record: Record, config: Config) -> bool:
        wanted = self._files.hidden(json.loads(json.dumps(config.as_dict())))
        return bool({**NEUTRAL, **record.get("config", {})} == wanted)

    def _found(self, job: Job) -> Record | None:
        path = job.file(self.output)
        record = read_record(path)[0] if path.exists() else None
        return None if record is None or "failed" in record else record


def _cost(record: Record) -> float:
    """A run's total time in units of its own time to train on an example."""
    seconds = record["seconds"]
    return float(seconds["total"] / (seconds["train"] / record["examples"]["trained"]))


def _off(rival: Record, ours: Record) -> float:
    """How far the rival's total time is from ours, as a share of it."""
    return abs(float(rival["seconds"]["total"]) / float(ours["seconds"]["total"]) - 1)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and another user's
        return True
    return True


def choose(records: Iterable[Record], method: str) -> dict[str, Any]:
    """The grid point with the least held-out loss, relative to the best one on each tuning set."""
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
