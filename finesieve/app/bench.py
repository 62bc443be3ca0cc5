"""Runs a suite: tune every method over the same grid, freeze the choice, run the claim sets.

One process a run, pinned to its own cores, a fixed number of threads. What lies in the output
folder already, whole and of the same configuration, is not run again, so a crash costs one run.
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

from finesieve.app.config import Config
from finesieve.app.results import Record, read_all, read_record, write_record
from finesieve.app.suite import EQUAL, Files, Suite
from finesieve.errors import ConfigError

CLOSE, ATTEMPTS = 0.03, 3  # equal-time pairs: how close, and after how many tries at the most
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run: which set, method, seed, point of the grid, and what for."""

    role: str  # "tuning" or "claim"
    set: str
    method: str
    seed: int
    point: tuple[tuple[str, Any], ...]

    def file(self, output: Path) -> Path:
        words = [self.method.replace(" ", "-").replace(":", "-"),
                 *(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.point)]
        return output / self.role / self.set / f"{'.'.join(words)}.seed{self.seed}.json"


class Bench:
    """A suite on a data folder. `run` returns all records, the failed ones too."""

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
        self._cores: SimpleQueue[list[int]] = SimpleQueue()
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
        with tempfile.TemporaryDirectory() as scratch:
            self._scratch = Path(scratch)
            self._files = Files(suite, self.data_dir, self._scratch)
            plain = [m for m in suite.methods if m not in EQUAL]
            timed = [m for m in suite.methods if m in EQUAL]
            points = {m: dict(suite.points.get(m, {})) for m in suite.methods}
            if suite.tuning:
                grid = [tuple(p.items()) for p in suite.grid_points()]
                judge = suite.tuned_by
                for group in ([judge],) if judge else (plain, timed):
                    jobs = [Job("tuning", s, m, 0, p)
                            for s in suite.tuning for m in group for p in grid]
                    records = self._all(jobs, points)
                    for method in group:
                        chosen = choose(records, method)
                        for other in suite.methods if judge else (method,):
                            points[other].update(chosen)
                for method, point in points.items():
                    shown = ", ".join(f"{k} {v}" for k, v in point.items())
                    self.say(f"tuned: {method}: {shown or 'nothing to tune'}")
            records = []
            for group in (plain, timed):
                jobs = [Job("claim", s, m, seed, tuple(points[m].items()))
                        for s in suite.claim for seed in range(suite.seeds) for m in group
                        if seed < suite.seeds_for(m)]
                records += self._all(jobs, points)
        return records

    def _all(self, jobs: Iterable[Job], points: Mapping[str, Mapping[str, Any]]) -> list[Record]:
        """These runs, `workers` at a time; failures are recorded and the rest go on."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda job: self._one(job, points), jobs))

    def _one(self, job: Job, points: Mapping[str, Mapping[str, Any]]) -> Record:
        if job.method in EQUAL:
            return self._equal_time(job, points)
        config = self.suite.config_of(job.set, job.method, job.seed, dict(job.point), self._files)
        return self._recorded(job, config)

    # ---- one run

    def _recorded(self, job: Job, config: Config, **more: Any) -> Record:
        """The run's record from its file, or else run it and write the file."""
        path = job.file(self.output)
        wanted = self._files.hidden(json.loads(json.dumps(config.as_dict())))
        if path.exists():
            record, wrong = read_record(path)
            if record is not None and record.get("config") == wanted and "failed" not in record:
                return record
            self.say(f"run again: {wrong or path.name + ' has another configuration or failed'}")
        start = time.time()
        summary = self._process(config)
        record = {
            **self._head(job), **more,
            **self._files.hidden({**summary, "config": config.as_dict()}),
        }
        told = record.get("failed") or (
            f"accuracy {record['eval']['accuracy']:.4f}, loss {record['eval']['loss']:.4f}, "
            f"{record['seconds']['total']:.1f} s"
        )
        self.say(f"{job.role} {job.set} {job.method} {dict(job.point)} seed {job.seed}: {told} "
                 f"({time.time() - start:.0f} s in all)")
        return write_record(path, record)

    def _head(self, job: Job) -> Record:
        return {"suite": self.suite.name, "role": job.role, "set": job.set, "name": job.method,
                "seed": job.seed, "point": dict(job.point), "command": self.command}

    def _process(self, config: Config) -> dict[str, Any]:
        """A worker's summary, or {"failed": reason}."""
        cores = self._cores.get()
        name = f"run-{id(config)}-{time.monotonic_ns()}"
        spec, out = self._scratch / f"{name}.spec", self._scratch / f"{name}.out"
        spec.write_text(json.dumps({"config": config.as_dict(), "cpus": cores}))
        threads = str(config.threads or self.threads)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "finesieve.app.worker", str(spec), str(out)],
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                capture_output=True, text=True, errors="replace", check=False,
            )
        finally:
            self._cores.put(cores)
        if out.exists():
            summary: dict[str, Any] = json.loads(out.read_text())
            return summary
        if done.returncode < 0:
            hint = ", probably out of memory" if done.returncode == -9 else ""
            return {"failed": f"ended by signal {-done.returncode}{hint}"}
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"exit status {done.returncode}: {last}"}

    # ---- equal time

    def _equal_time(self, job: Job, points: Mapping[str, Mapping[str, Any]]) -> Record:
        """A rival given the total seconds that finesieve took with the same set and seed.

        Its share is set from its own pace with other seeds, or else from full training's, checked
        afterwards, and set anew if the time is off by more than 3 %.
        """
        seeds = {"finesieve": job.seed, "full": min(job.seed, self.suite.seeds_for("full") - 1)}
        ours, plain = (
            self._found(replace(job, method=m, seed=seed, point=tuple(points[m].items())))
            for m, seed in seeds.items()
        )
        path = job.file(self.output)
        if ours is None or plain is None:
            why = "no time to match: finesieve or full training failed"
            failed = {**self._head(job), "failed": why}
            sound = path.exists() and "failed" not in (read_record(path)[0] or {"failed": ""})
            return failed if sound else write_record(path, failed)  # nothing sound is lost
        target, n = ours["seconds"]["total"], ours["examples"]["drawn"]
        kept, _ = read_record(path) if path.exists() else (None, "")
        # Seconds for the whole stream: as this rival took with other seeds, or else full training.
        pace = self._rival_pace(job) or plain["seconds"]["total"] / plain["examples"]["trained"] * n
        if kept and kept.get("equal_time", {}).get("target") == target and "failed" not in kept:
            if "ratio" in kept["equal_time"]:  # only once all attempts were made
                return kept
            share = kept["equal_time"]["share"]
        else:
            share = target / pace
        best: Record | None = None
        attempts = 0
        while attempts < ATTEMPTS:
            attempts += 1
            share = round(min(1.0, max(1e-3, share)), 4)
            record = self._share_run(job, share, target)
            if "failed" in record:
                return record
            ratio = record["seconds"]["total"] / target
            if best is None or abs(ratio - 1) < abs(best["seconds"]["total"] / target - 1):
                best = record
            if abs(ratio - 1) <= CLOSE or (share == 1.0 and ratio < 1):
                break
            share /= ratio
        assert best is not None
        best["equal_time"].update(ratio=best["seconds"]["total"] / target, attempts=attempts)
        return write_record(path, best)

    def _rival_pace(self, job: Job) -> float | None:
        """Seconds over share, of this rival's runs with other seeds: its batches are padded
        otherwise than full training's, so its own pace is the better guess."""
        found = [
            self._found(replace(job, seed=seed)) for seed in range(self.suite.seeds)
            if seed != job.seed
        ]
        paces = [r["seconds"]["total"] / r["equal_time"]["share"] for r in found if r is not None]
        return fmean(paces) if paces else None

    def _share_run(self, job: Job, share: float, target: float) -> Record:
        suite, point = self.suite, dict(job.point)
        if EQUAL[job.method] == "truncated":
            config = suite.config_of(job.set, "full", job.seed, point, self._files)
            count = config.limit or self._size(job.set)
            config = replace(config, limit=max(1, round(share * count)))
        else:
            config = suite.config_of(job.set, job.method, job.seed, point, self._files,
                                     share=share)
        return self._recorded(job, config, equal_time={"target": target, "share": share})

    def _size(self, set_name: str) -> int:
        """Training examples of a set, from full training's record there."""
        for record in read_all(self.output)[0]:
            if record["set"] == set_name and record["name"] == "full" and "failed" not in record:
                return int(record["examples"]["drawn"] // record["config"]["epochs"])
        raise ConfigError(f"no finished full training on {set_name}")

    def _found(self, job: Job) -> Record | None:
        path = job.file(self.output)
        record = read_record(path)[0] if path.exists() else None
        return None if record is None or "failed" in record else record


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
