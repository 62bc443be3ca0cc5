"""The runs of a suite: what one is, where its record is kept, and how it is made if it is missing.

The way to run one job is passed in: a process for each run (`bench.py`), or this process
(`compare.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from finesieve.cli.comparing.suite import Files, Suite
from finesieve.cli.config import Config
from finesieve.cli.results import Record, read_record, write_record
from finesieve.cli.tasks.registry import of_result

# Fields of the configuration that older records lack, at defaults that change nothing.
NEUTRAL = {
    "lora": 0,
    "head_start": 0,
    "clock": "wall",
    "task": "classification",
    "label_names": None,
}
Say = Callable[[str], None]
Point = tuple[tuple[str, Any], ...]
Cores = list[int]
Summary = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run: which set, method, seed, point of the grid, and what for."""

    role: str  # "tuning" or "claim"
    set: str
    method: str
    seed: int
    point: Point

    def file(self, output: Path) -> Path:
        """Return the place of the run's record below a folder of results."""
        words = [
            self.method.replace(" ", "-").replace(":", "-"),
            *(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.point),
        ]
        return output / self.role / self.set / f"{'.'.join(words)}.seed{self.seed}.json"

    def __str__(self) -> str:
        """Name the run for people; a claim is what they expect."""
        tuning = "" if self.role == "claim" else f"{self.role} "
        point = f" {dict(self.point)}" if self.point else ""
        return f"{tuning}{self.set} {self.method}{point} seed {self.seed}"


# Runs one job and returns its summary, or {"failed": reason}.
RunJob = Callable[[Job, Config, Cores], Summary]


class Store(Protocol):
    """Keeps the records of runs."""

    def read(self, job: Job) -> tuple[Record | None, str]:
        """Return (record, ""), or (None, what is wrong with it), or (None, "") if there is none."""

    def write(self, job: Job, record: Record) -> Record:
        """Keep the record in place of an earlier one, and return it as it is kept."""


class RecordFiles:
    """Keeps each record in a file of its own, so that a crash costs one run."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def read(self, job: Job) -> tuple[Record | None, str]:
        """Returns a run's record, or None and what is wrong with it, if anything."""
        path = job.file(self.output)
        return read_record(path) if path.exists() else (None, "")

    def write(self, job: Job, record: Record) -> Record:
        """Writes a run's record."""
        return write_record(job.file(self.output), record)


class Runs:
    """Finds the record of a run in the store, or makes it and puts it there.

    Args:
        suite, files: what the runs' configurations are made of.
        run: runs one job.
        command: what the user typed, for the records.
        say: takes a line for the terminal.
    """

    def __init__(
        self, suite: Suite, files: Files, store: Store, run: RunJob, command: str, say: Say
    ) -> None:
        self.suite, self.say = suite, say
        self._files, self._store, self._run, self._command = files, store, run, command

    def config(self, job: Job, **settings: Any) -> Config:
        """Return the configuration of a run; settings: of its method, besides the suite's."""
        return self.suite.config_of(
            job.set, job.method, job.seed, dict(job.point), self._files, **settings
        )

    def record(
        self, job: Job, config: Config, cores: Cores, again: bool = False, **more: Any
    ) -> Record:
        """Return the run's record from the store, or else (or `again`) run it and keep it.

        Args:
            more: further fields of the record. A run that failed is kept unless a sound one is
                there.
        """
        kept, wrong = self._store.read(job)
        if not again and (kept is not None or wrong):
            if kept is not None and self.is_of(kept, config) and "failed" not in kept:
                return kept
            why = wrong or f"{job} has another configuration or failed"
            self.say(f"run again: {why}")
        start = time.time()
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start))
        summary = self._run(job, config, cores)
        record = {
            **self.head(job),
            "cpus": cores,
            "began": began,
            **more,
            **self._files.hidden({**summary, "config": config.as_dict()}),
        }
        told = record.get("failed")
        if told is None:
            result, seconds = record["eval"], record["seconds"]["total"]
            told = f"{of_result(result).in_short(result)}, {seconds:.1f} s"
        self.say(f"{job}: {told} ({time.time() - start:.0f} s in all)")
        if again and "failed" in record and self.found(job):
            return record  # nothing sound is lost
        return self.keep(job, record)

    def keep(self, job: Job, record: Record) -> Record:
        """Put the record into the store."""
        return self._store.write(job, record)

    def found(self, job: Job) -> Record | None:
        """Return the sound record that the store has, if any."""
        record = self._store.read(job)[0]
        return None if record is None or "failed" in record else record

    def is_of(self, record: Record, config: Config) -> bool:
        """Return whether the record is of this configuration."""
        wanted = self._files.hidden(json.loads(json.dumps(config.as_dict())))
        return bool({**NEUTRAL, **record.get("config", {})} == wanted)

    def head(self, job: Job) -> Record:
        """Return what a record says of its job."""
        return {
            "suite": self.suite.name,
            "role": job.role,
            "set": job.set,
            "name": job.method,
            "seed": job.seed,
            "point": dict(job.point),
            "command": self._command,
        }
