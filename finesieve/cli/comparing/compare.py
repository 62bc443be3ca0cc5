"""Several methods on the user's own data, and a random subset at equal total time.

A comparison is a suite of one set. It goes through the same runner, the same procedure for equal
time and the same verdict as a benchmark; only its runs are made in this process, on data that are
read and tokenised once, and each keeps its model and its books.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finesieve import methods
from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.comparing.runner import run_suite
from finesieve.cli.comparing.runs import NEUTRAL, Cores, Job, Runs, Summary
from finesieve.cli.comparing.suite import CONFIG, EQUAL, Files, Suite, title_of
from finesieve.cli.comparing.tables import screen_table, set_table
from finesieve.cli.comparing.verdict import verdict
from finesieve.cli.config import Config
from finesieve.cli.results import Record
from finesieve.cli.tasks.registry import baseline
from finesieve.cli.training.models import settled
from finesieve.cli.training.prepare import Prepared, prepare
from finesieve.cli.training.runfiles import CHECKPOINT, SUMMARY
from finesieve.cli.training.train import train
from finesieve.errors import ConfigError, DataError, FinesieveError, StateError

TABLE, RECORDS = "compare.md", "compare.json"


def compare(
    config: Config,
    names: list[str],
    seeds: int,
    settings: dict[str, Any],
    output: str | None,
    equal_time: bool = True,
    quiet: bool = False,
    resume: bool = False,
) -> list[Record]:
    """Runs every method for every seed, one after another in this process; prints one table.

    Args:
        config: of every run; `method`, `settings` and `seed` are set here.
        names: of the methods.
        seeds: how many, from 0 on.
        settings: of the method `finesieve`; other methods run with their defaults.
        output: a new or empty folder that keeps every run's folder and the table.
        equal_time: adds, for each run of finesieve, a random subset of such a share that its total
            seconds come out the same, its learning rate decayed in full over what it sees.
        quiet: whether to show no progress.
        resume: goes on in the output folder: finished runs are kept, and an interrupted one goes on
            from its checkpoint.

    Returns:
        The records, those of runs that failed included.

    Raises:
        ConfigError: for what is wrong with the call.
        DataError: for what is wrong with the data.
        StateError: for a folder that cannot be gone on with.
    """
    config = settled(config)
    suite = suite_of(config, names, seeds, settings, equal_time)
    kept = _kept(output, resume)
    data = prepare(config)

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    for note in data.notes:
        print(note, file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folders = Folders(Path(scratch) if output is None else Path(output), data, quiet, kept)
        folders.check(config)
        if output is not None:  # from here on there is something to go on with
            Path(output).mkdir(parents=True, exist_ok=True)
            _write(Path(output) / RECORDS, kept)
        runs = Runs(
            suite, Files(suite, None, Path(scratch)), folders, folders.run, "finesieve compare", say
        )
        try:
            records = run_suite(runs)  # finesieve's runs are fresh: none is repeated
        finally:
            folders.tidy()
    text = told(records, config)
    if not quiet:
        print(file=sys.stderr)  # apart from the progress
    # What is neither looked at nor kept in a file may be piped into one.
    seen = sys.stdout.isatty() or output is not None
    print(told(records, config, shutil.get_terminal_size().columns) if seen else text)
    if output is not None:
        root = Path(output)
        (root / TABLE).write_text(text + "\n", encoding="utf-8")
        _write(root / RECORDS, records)
        print(
            f"\nfiles: {os.path.join(output, '')} (this table: {TABLE}; each run: model/, "
            f"{SUMMARY}, run.jsonl, examples.parquet)"
        )
    return records


def suite_of(
    config: Config, names: list[str], seeds: int, settings: Mapping[str, Any], equal_time: bool
) -> Suite:
    """Return the suite that a comparison is. Raises `ConfigError` before anything is run."""
    if not names:
        raise ConfigError("--methods names none; expected e.g. full,finesieve")
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; expected 1 or more")
    for name in names:
        methods.registry.build(name, 0, **(settings if name == "finesieve" else {}))
    given = config.as_dict()
    title = title_of(config.train)
    timed = [RIVAL] if equal_time and "finesieve" in names else []
    return Suite(
        name=title,
        methods=(*names, *timed),
        sets={title: {"train": config.train, "eval": config.eval}},
        claim=(title,),
        seeds=seeds,
        config={k: v for k, v in given.items() if k in CONFIG},
        settings={"finesieve": settings},
    )


def _kept(output: str | None, resume: bool) -> list[Record]:
    """Return the records of an earlier comparison that is gone on with.

    Raises:
        ConfigError: for a folder in use.
        StateError: where there is nothing to go on with.
    """
    root = Path(output or "")
    used = output is not None and root.is_dir() and any(root.iterdir())
    there = used and (root / RECORDS).exists()
    if not resume:
        if used:
            hint = "add --resume to go on with the comparison in it, or " if there else ""
            raise ConfigError(f"output folder {output} is not empty: {hint}choose another folder")
        return []
    if not there:
        raise StateError(f"nothing to go on with: {output} has no {RECORDS}; leave out --resume")
    try:
        records: list[Record] = json.loads((root / RECORDS).read_text(encoding="utf-8"))
        return [r for r in records if "failed" not in r]
    except (ValueError, TypeError) as error:
        raise StateError(f"{root / RECORDS} is damaged: {error}") from None


def _write(path: Path, records: list[Record]) -> None:
    """Write the records, all or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


class Folders:
    """Runs jobs in this process, each with a folder of its own, and keeps their records.

    A rival may need several tries until its time is right: the one whose record is written last
    is kept under the run's name, the others are removed.

    Args:
        root: the folder of the runs' folders.
        data: what all of them train on; the same, whatever the seed.
        kept: records of an interrupted comparison in that folder.
    """

    def __init__(self, root: Path, data: Prepared, quiet: bool, kept: Sequence[Record]) -> None:
        self.root, self._data, self._quiet, self._kept = root, data, quiet, kept
        self._records: dict[Job, Record] = {}
        self._tries: dict[Job, list[Path]] = {}
        for record in kept:
            job = Job("claim", record["set"], record["name"], record["seed"], ())
            self._records[job] = record
            self._tries[job] = [self._folder(job)]

    def check(self, config: Config) -> None:
        """Raise `StateError` if the records kept are of other settings or data than these."""
        wanted = json.loads(json.dumps(config.as_dict()))
        for record in self._kept:
            then = {
                **NEUTRAL,
                **record["config"],
                **{k: wanted[k] for k in ("method", "settings", "seed")},
            }
            differ = [
                f"{k}: {then.get(k)!r} then, {wanted[k]!r} now"
                for k in wanted
                if then.get(k) != wanted[k]
            ]
            if record["training_data"] != self._data.digest:
                differ.append("the training data have changed")
            if differ:
                raise StateError(
                    f"{self.root} is of another comparison ({'; '.join(differ)}): go on with the "
                    "same settings, or choose another folder"
                )

    def read(self, job: Job) -> tuple[Record | None, str]:
        """Returns a run's record, or None, and an empty string: these are never damaged."""
        return self._records.get(job), ""

    def write(self, job: Job, record: Record) -> Record:
        """Writes a run's record."""
        self._records[job] = record
        self.root.mkdir(parents=True, exist_ok=True)
        _write(self.root / RECORDS, list(self._records.values()))
        return record

    def run(self, job: Job, config: Config, cores: Cores) -> Summary:
        """Run one job. What is wrong with the call is raised, what goes wrong in it recorded."""
        folder = self._folder(job)
        tries = self._tries.setdefault(job, [])
        if tries:
            folder = folder.with_name(f"{folder.name}.try{len(tries) + 1}")
        tries.append(folder)
        unfinished = (folder / CHECKPOINT).exists()
        if folder.exists() and (not unfinished or job.method in EQUAL):
            shutil.rmtree(folder)  # of a try whose share was another, or without a checkpoint
            unfinished = False
        try:
            summary = train(
                config,
                str(folder),
                unfinished,
                data=self._data,
                quiet=self._quiet,
                label=job.method,
            )
        except (ConfigError, DataError, StateError):
            raise
        except FinesieveError as error:
            return {"failed": str(error)}
        except (MemoryError, RuntimeError) as error:  # torch raises it when out of memory
            return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        return {**summary, "training_data": self._data.digest, "folder": folder.name}

    def tidy(self) -> None:
        """Leaves one folder for each finished run, under the run's name, and no other try."""
        for job, tries in self._tries.items():
            record, wanted = self._records.get(job), self._folder(job)
            kept = None if record is None else record.get("folder", wanted.name)
            if record is None or kept is None:
                continue
            record["folder"] = wanted.name
            for folder in tries:
                if folder.name != kept:
                    shutil.rmtree(folder, ignore_errors=True)
            if kept != wanted.name:
                (self.root / kept).rename(wanted)
        if self._records:
            _write(self.root / RECORDS, list(self._records.values()))

    def _folder(self, job: Job) -> Path:
        return self.root / f"{job.method.replace(' ', '-')}-seed{job.seed}"


# ---- the table


def told(records: list[Record], config: Config, width: int | None = None) -> str:
    """Returns the table of a comparison, what it is of, and the verdict.

    Args:
        width: of the terminal that it is for, in characters; None for a table in Markdown.
    """
    sound = [r for r in records if "failed" not in r]
    lines = [set_table(records) if width is None else screen_table(records, width)]
    if sound:
        size = int(sound[0]["examples"]["drawn"]) // config.epochs
        about = (
            f"{config.train}: {size} examples x {config.epochs} epoch(s), evaluated on "
            f"{sound[0]['eval']['n']}; {len({r['seed'] for r in records})} seed(s). Seconds "
            "are those of deciding, scoring, training and waiting for data. `scored` counts the "
            "examples that a forward pass without gradient looked at, also to fit the head."
        )
        lines.append(" ".join(text for text in (about, baseline(sound)) if text))
    lines += [
        f"failed: {r['name']} seed {r['seed']}: {r['failed']}" for r in records if "failed" in r
    ]
    names = {r["name"] for r in sound}
    if "finesieve" in names and len(names & {"full", RIVAL}):
        lines.append(verdict(records))
    return "\n\n".join(lines)
