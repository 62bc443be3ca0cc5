"""Runs a suite on a data folder: one process a run, one sealed file a record.

Each process is pinned to its own cores and has a fixed number of threads. What lies in the output
folder already, whole and of the same configuration, is not run again, so a crash costs one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finesieve.cli.comparing.runner import run_suite
from finesieve.cli.comparing.runs import Cores, Job, RecordFiles, Runs, Say, Summary
from finesieve.cli.comparing.suite import Files, Suite, built_in
from finesieve.cli.config import Config
from finesieve.cli.results import Record
from finesieve.cli.training.models import pick_device, precision_note
from finesieve.errors import ConfigError

REPEATS = 2  # of finesieve's run, if no try of its rival meets its time


class Bench:
    """Runs a suite on a data folder, one process a run.

    Args:
        suite: what is run.
        data_dir: the suite's paths are relative to it.
        output: the folder of the records; those that are there already are not made again.
        workers: runs side by side; as many as the cores allow by default.
        command: how to run it, for the records.
        say: is told how far it is.

    Raises:
        ConfigError: for folders and files that are not there.
    """

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
        # Each worker is pinned to its own cores, since runs that share a core slow each other down.
        self.cores: list[Cores] = []
        for i in range(count):
            own = cpus[i * self.threads : (i + 1) * self.threads]
            self.cores.append(own if len(own) == self.threads and count <= most else [])
        missing = [
            str(path)
            for name in {*suite.tuning, *suite.claim}
            for path in (suite.sets[name]["train"], *suite.sets[name].get("eval", ()))
            if path not in suite.derived
            and not built_in(path)
            and not (self.data_dir / path).exists()
        ]
        if missing:
            raise ConfigError(f"the data folder {data_dir} lacks {', '.join(sorted(missing))}")

    def run(self) -> list[Record]:
        """Runs what is missing; returns all records, the failed ones too.

        Raises:
            ConfigError: if another bench writes into the folder.
        """
        suite = self.suite
        with self._alone(), tempfile.TemporaryDirectory() as scratch:
            asked = {str({**suite.config, **suite.sets[s]}.get("precision")) for s in suite.claim}
            for note in {precision_note(p, pick_device("auto")) for p in asked} - {None}:
                self.say(str(note))
            runs = self.runs(Path(scratch))
            return run_suite(runs, self.cores, REPEATS)

    def runs(self, scratch: Path) -> Runs:
        """Return what finds and makes the suite's runs; derived files are put into `scratch`."""
        files = Files(self.suite, self.data_dir, scratch)
        return Runs(self.suite, files, RecordFiles(self.output), self._job, self.command, self.say)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises `ConfigError` if another bench, still alive, writes into the same folder; marks it
        as this one's inside."""
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

    def _job(self, job: Job, config: Config, cores: Cores) -> Summary:
        return self._process(config, cores)

    def _process(self, config: Config, cores: Cores) -> Summary:
        """Returns a worker's summary, or {"failed": reason}."""
        threads = str(config.threads or self.threads)
        with tempfile.TemporaryDirectory() as scratch:
            spec, out = Path(scratch) / "spec.json", Path(scratch) / "out.json"
            spec.write_text(json.dumps({"config": config.as_dict(), "cpus": cores}))
            done = subprocess.run(
                [sys.executable, *self.worker, str(spec), str(out)],
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if out.exists():
                summary: Summary = json.loads(out.read_text())
                return summary
        if done.returncode < 0:
            hint = ", probably out of memory" if done.returncode == -9 else ""
            return {"failed": f"ended by signal {-done.returncode}{hint}"}
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"exit status {done.returncode}: {last}"}


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and another user's
        return True
    return True
