"""The command line: `finesieve train`, `compare`, `bench`, `report`, `inspect`, `clean`.

What takes time to load (torch, numpy, transformers) is loaded once the options are known to be
right, so that the version, the help and what is wrong with a command come at once.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finesieve.cli.config import check_method, config_of
from finesieve.cli.inspecting import command as inspecting
from finesieve.cli.memory import keep_memory
from finesieve.cli.options import parser
from finesieve.cli.settings import asked_for, listed, settings_of
from finesieve.errors import ConfigError, FinesieveError, FinesieveWarning, install

EXIT_BAD_INPUT = 2
PAGE = "report.html"  # of a comparison, in its output folder


def _train(args: argparse.Namespace) -> int:
    config = config_of(args, settings=settings_of(args.settings))
    from finesieve.cli.tasks.registry import of_result
    from finesieve.cli.training.train import Interrupted, train

    try:
        summary = train(config, args.output, args.resume, quiet=args.quiet)
    except Interrupted as stop:
        print(f"\ninterrupted; everything is saved. {_again(args)}", file=sys.stderr)
        return 128 + stop.signal
    result, seconds, examples = summary["eval"], summary["seconds"], summary["examples"]
    print(
        f"{of_result(result).in_full(result)}\n"
        f"trained on {examples['trained']} of {examples['drawn']} examples, scored "
        f"{examples['scored']}, in {seconds['total']:.1f} s\n"
        f"written: {os.path.join(args.output, '')}"
        "{model/, summary.json, run.jsonl, examples.parquet}"
    )
    return 0


def _again(args: argparse.Namespace) -> str:
    """Return how to go on: the command as it was typed, with --resume."""
    words = [w for w in args.argv if w != "--resume"]
    return f"Go on with:\n  finesieve {shlex.join([*words, '--resume'])}"


def _stopped(args: argparse.Namespace) -> str:
    """Return the message for a user who stopped a command: what was kept, and how to continue."""
    command = f"  finesieve {shlex.join(args.argv)}"
    if args.command == "bench":
        return f"finished runs are kept. Run the others with:\n{command}"
    if args.command == "report" or not args.output:
        return f"nothing was written. Start again with:\n{command}"
    folder = Path(args.output)
    if args.command == "compare" and (folder / "compare.json").exists():
        return f"finished runs are kept. {_again(args)}"
    if (folder / "checkpoint.pt").exists():
        return f"nothing was saved since the last checkpoint. {_again(args)}"
    if folder.is_dir() and any(folder.iterdir()):
        return f"nothing was saved. Remove the folder {folder} and start again with:\n{command}"
    return f"training had not begun. Start again with:\n{command}"


def _compare(args: argparse.Namespace) -> int:
    names = [name.strip() for name in args.methods.split(",") if name.strip()]
    for name in names:
        check_method(name)
    settings = settings_of(args.settings)
    if args.resume and not args.output:
        raise ConfigError("--resume goes on in a folder: give the --output of the comparison")
    if settings and "finesieve" not in names:
        raise ConfigError("--set reaches the method finesieve, which is not among --methods")
    config = config_of(args)
    from finesieve.cli.comparing.compare import compare
    from finesieve.cli.training.train import Interrupted

    try:
        records = compare(
            config,
            list(dict.fromkeys(names)),
            args.seeds,
            settings,
            args.output,
            equal_time=not args.no_equal_time,
            quiet=args.quiet,
            resume=args.resume,
        )
    except Interrupted as stop:
        kept = (
            f"; what is finished is in {args.output}. {_again(args)}"
            if args.output
            else ": nothing is kept without --output FOLDER, with which --resume goes on"
        )
        print(f"\ninterrupted{kept}", file=sys.stderr)
        return 128 + stop.signal
    if args.output and any("failed" not in r for r in records):
        from finesieve.cli.report.report import report

        page = str(Path(args.output) / PAGE)
        for complaint in report([args.output], page):
            print(f"left out of the page: {complaint}", file=sys.stderr)
        print(f"page: {page}")
    return int(any("failed" in r for r in records))


def _bench(args: argparse.Namespace) -> int:
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}; expected 1 or more")
    from finesieve.cli.comparing.bench import Bench
    from finesieve.cli.comparing.suite import read_suite
    from finesieve.cli.comparing.tables import table
    from finesieve.cli.comparing.verdict import verdict
    from finesieve.cli.results import read_all

    suite = read_suite(args.suite)
    if not args.table_only:
        command = f"finesieve bench {Path(args.suite).name} --data-dir DATA --output RESULTS"
        told = functools.partial(print, file=sys.stderr, flush=True)
        Bench(suite, args.data_dir, args.output, args.workers, command, told).run()
    records, complaints = read_all(Path(args.output))
    for complaint in complaints:
        print(f"left out: {complaint}", file=sys.stderr)
    print(table(records, suite.claim))
    print("\n" + verdict(records))
    failed = [r for r in records if "failed" in r]
    for r in failed:
        print(f"failed: {r['set']} {r['name']} seed {r['seed']}: {r['failed']}", file=sys.stderr)
    return 1 if failed else 0


def _report(args: argparse.Namespace) -> int:
    from finesieve.cli.report.report import report

    for complaint in report(args.runs, args.output):
        print(f"left out: {complaint}", file=sys.stderr)
    print(f"written: {args.output}")
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"finesieve: warning: {message}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    That is 0 for done, 1 if the system refused or a run of a suite failed, 2 for bad input or
    settings, and 128 + signal when interrupted.

    Args:
        argv: the words behind `finesieve`; this process's own by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        method = asked_for(words)
        if method is not None:
            print(listed(method))
            return 0
        args = parser().parse_args(words)
    except FinesieveError as error:
        print(f"finesieve: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    args.argv = words
    missing = [n for n in ("transformers", "pyarrow") if importlib.util.find_spec(n) is None]
    if missing:
        print(
            f"finesieve: error: the command line needs {' and '.join(missing)}: {install('cli')}",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("always", FinesieveWarning)
            warnings.showwarning = _show_warning
            run = {
                "train": _train,
                "compare": _compare,
                "bench": _bench,
                "report": _report,
                "inspect": inspecting.inspect,
                "clean": inspecting.clean,
            }
            return run[args.command](args)
    except FinesieveError as error:
        print(f"finesieve: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"\nfinesieve: stopped at once; {_stopped(args)}", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, a folder without rights
        print(f"finesieve: error: {error}", file=sys.stderr)
        return 1
