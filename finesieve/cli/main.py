"""The command line: `finesieve train`, `compare`, `bench` and `report`.

What takes time to load (torch, numpy, transformers) is loaded once the options are known to be
right, so that the version, the help and what is wrong with a command come at once.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finesieve import __version__
from finesieve.cli.config import ATTENTION, CLOCKS, METHODS, Config, check_method
from finesieve.cli.data.labels import UNLABELLED
from finesieve.cli.memory import keep_memory
from finesieve.errors import ConfigError, FinesieveError, FinesieveWarning

EXIT_BAD_INPUT = 2


def _data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data and model")
    group.add_argument(
        "--train",
        required=True,
        metavar="DATA",
        help="CSV, TSV, JSON, fastText (also .gz, .bz2, .xz, .zip), Parquet or Arrow file, a hub "
        "dataset id (name or name:split), or the built-in 'docstrings'",
    )
    group.add_argument(
        "--eval",
        action="append",
        default=[],
        metavar="DATA",
        help="evaluation data, may repeat; without it a tenth is held out",
    )
    group.add_argument(
        "--model",
        default="minilm",
        help="folder or hub id of any sequence classifier (default: %(default)s, "
        "the encoder from the extra 'demo')",
    )
    group.add_argument("--text", metavar="COLUMN", help="text column (found by usual names)")
    group.add_argument("--text-pair", metavar="COLUMN", help="second text, for pairs")
    group.add_argument("--label", metavar="COLUMN", help="label column (found by usual names)")
    group.add_argument(
        "--keep-empty",
        action="store_true",
        help="keep rows with an empty text (dropped by default)",
    )
    group.add_argument(
        "--unlabelled",
        choices=UNLABELLED,
        default="refuse",
        help="rows without a label, or with one like nan or -1 that probably says so: refuse them "
        "(default), drop them, or keep such labels as classes",
    )
    group.add_argument("--limit", type=int, metavar="N", help="train on N random examples only")
    group.add_argument(
        "--eval-limit", type=int, metavar="N", help="evaluate on at most N examples of each set"
    )


def _training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, default=1, help="default: %(default)s")
    group.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    group.add_argument(
        "--survivor-batch-size",
        type=int,
        metavar="N",
        help="batch size once a gate is closed (default: where "
        "examples are chosen by score and full batches would make fewer than 400 "
        "steps, half of --batch-size, which keeps more of them)",
    )
    group.add_argument(
        "--head-start",
        type=int,
        metavar="N",
        help="fit the new classification head to the first N examples before "
        "training, with every method (default: 512, 5 %% of the training data at "
        "the most); 0 leaves it random",
    )
    group.add_argument(
        "--lr",
        type=float,
        default=1e-4,
        help="peak learning rate (default: %(default)s); linear, by the share of the stream",
    )
    group.add_argument(
        "--warmup",
        type=float,
        default=0.06,
        metavar="SHARE",
        help="share of the stream over which the learning rate rises (default: %(default)s)",
    )
    group.add_argument("--weight-decay", type=float, default=0.01, help="default: %(default)s")
    group.add_argument(
        "--max-length",
        type=int,
        default=128,
        metavar="TOKENS",
        help="longer texts are cut (default: %(default)s)",
    )
    group.add_argument(
        "--dropout",
        default="0",
        metavar="RATE",
        help="every dropout rate of the model (default: %(default)s; `model` keeps "
        "its own): each example is met once, and dropout blurs its size",
    )
    group.add_argument(
        "--freeze",
        type=int,
        default=0,
        metavar="LAYERS",
        help="freeze the embeddings and this many first layers; what they put out "
        "when an example is scored is used again when it is trained on",
    )
    group.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="train LoRA adapters of this rank and the head instead of all weights "
        "(extra 'peft'); wants a learning rate about ten times as high",
    )
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s"
    )
    group.add_argument(
        "--attention",
        choices=("auto", *ATTENTION),
        default="auto",
        help="how attention is computed (default: auto: eager in bf16 on a CPU up "
        "to 256 tokens, where it trains up to 1.7 times faster; else the model's "
        "own)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of PyTorch")
    group.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="what seconds are: of the wall clock, or of this process's processors "
        "alone, which is steadier where a CPU is shared (default: %(default)s)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="a setting of the method, may repeat: for finesieve e.g. train=0.2 "
        "or score=0.4 (shares, else found by themselves), audit=0.02, "
        "cost_ratio=0.2 (else measured); for random share=0.3; VALUE is "
        'JSON: --set \'starts={"2": 0.05, "3": 0.2}\' sets the stages by hand',
    )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="finesieve",
        description="Fine-tune a text classifier without spending compute on examples that teach "
        "it nothing.",
    )
    top.add_argument("--version", action="version", version=f"finesieve {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="fine-tune one model",
        description="Fine-tune one model. Writes model/, summary.json, run.jsonl and "
        "examples.parquet into the output folder. Ctrl-C and SIGTERM save a checkpoint.",
    )
    _data_options(train)
    train.add_argument("--output", required=True, metavar="FOLDER", help="new or empty folder")
    train.add_argument(
        "--method",
        default="finesieve",
        help=f"{', '.join(METHODS)}, or module:function of your own (default: %(default)s)",
    )
    train.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    train.add_argument(
        "--resume", action="store_true", help="go on with the interrupted run in the output folder"
    )
    train.add_argument("--quiet", action="store_true", help="no progress")
    _training_options(train)

    compare = commands.add_parser(
        "compare",
        help="several methods side by side, and random at equal total time",
        description="Run several methods on the same data and seeds and print one table.",
    )
    _data_options(compare)
    compare.add_argument("--output", metavar="FOLDER", help="keep every run's files here")
    compare.add_argument(
        "--methods", default="full,finesieve", help="comma-separated (default: %(default)s)"
    )
    compare.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1 (default: %(default)s)"
    )
    compare.add_argument(
        "--no-equal-time",
        action="store_true",
        help="leave out the random subset at finesieve's total time",
    )
    compare.add_argument("--quiet", action="store_true", help="no progress")
    _training_options(compare)

    bench = commands.add_parser(
        "bench",
        help="run a suite: tune, freeze, compare at equal time, with statistics",
        description="Run every method of a suite on every set and seed, one process a run. Runs "
        "that lie in the output folder already are not run again.",
    )
    bench.add_argument("suite", metavar="SUITE.toml")
    bench.add_argument(
        "--data-dir", required=True, metavar="FOLDER", help="the suite's paths are relative to it"
    )
    bench.add_argument("--output", required=True, metavar="FOLDER", help="one JSON file a run")
    bench.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="runs side by side (default: as many as the cores allow)",
    )
    bench.add_argument(
        "--table-only",
        action="store_true",
        help="run nothing; table and verdict from the files that are there",
    )
    page = commands.add_parser(
        "report",
        help="one HTML page from run folders or benchmark results",
        description="Write one self-contained HTML page: what it cost and what came of it, the "
        "stages over time, where the seconds went, single examples to look at.",
    )
    page.add_argument(
        "runs", nargs="+", metavar="FOLDER", help="output folders of train, compare or bench"
    )
    page.add_argument(
        "--output", default="report.html", metavar="FILE", help="default: %(default)s"
    )
    return top


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """--set NAME=VALUE, VALUE as JSON or else as text; keys of `starts` become numbers."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair!r}; expected NAME=VALUE, e.g. train=0.2")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    starts = out.get("starts")
    if starts is not None:
        try:
            out["starts"] = {int(k): float(v) for k, v in starts.items()}
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(
                f'--set starts={starts!r}; expected e.g. starts={{"2": 0.05, "3": 0.2}}'
            ) from None
    return out


def _rate(text: str) -> float | None:
    if text == "model":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--dropout {text}; expected a rate or 'model'") from None


def config_of(args: argparse.Namespace, **more: Any) -> Config:
    same = (
        "train",
        "model",
        "text",
        "text_pair",
        "label",
        "keep_empty",
        "unlabelled",
        "limit",
        "eval_limit",
        "epochs",
        "batch_size",
        "survivor_batch_size",
        "head_start",
        "lr",
        "weight_decay",
        "warmup",
        "max_length",
        "freeze",
        "lora",
        "precision",
        "attention",
        "device",
        "threads",
        "clock",
    )
    values = {name: getattr(args, name) for name in same}
    values["dropout"] = _rate(args.dropout)
    return Config(eval=tuple(args.eval), **{**values, **more})


def _train(args: argparse.Namespace) -> int:
    config = config_of(
        args, method=args.method, seed=args.seed, settings=settings_of(args.settings)
    )
    from finesieve.cli.training.train import Interrupted, train

    try:
        summary = train(config, args.output, args.resume, quiet=args.quiet)
    except Interrupted as stop:
        print(
            f"\ninterrupted; everything is saved. Go on with:\n  finesieve {_again(args)}",
            file=sys.stderr,
        )
        return 128 + stop.signal
    result, seconds, examples = summary["eval"], summary["seconds"], summary["examples"]
    print(
        f"accuracy {result['accuracy']:.4f}  loss {result['loss']:.4f}  (n={result['n']})\n"
        f"trained on {examples['trained']} of {examples['drawn']} examples, scored "
        f"{examples['scored']}, in {seconds['total']:.1f} s\n"
        f"written: {os.path.join(args.output, '')}"
        "{model/, summary.json, run.jsonl, examples.parquet}"
    )
    return 0


def _again(args: argparse.Namespace) -> str:
    import shlex

    words = [w for w in args.argv if w != "--resume"]
    return shlex.join([*words, "--resume"])


def _compare(args: argparse.Namespace) -> int:
    names = [name.strip() for name in args.methods.split(",") if name.strip()]
    for name in names:
        check_method(name)
    settings = settings_of(args.settings)
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
        )
    except Interrupted as stop:
        kept = f"; finished runs are in {args.output}" if args.output else ""
        print(f"\ninterrupted{kept}", file=sys.stderr)
        return 128 + stop.signal
    return int(any("failed" in r for r in records))


def _bench(args: argparse.Namespace) -> int:
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}; expected 1 or more")
    from finesieve.cli.comparing.bench import Bench
    from finesieve.cli.comparing.suite import read_suite
    from finesieve.cli.comparing.tables import table, verdict
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
    """Exit status: 0 done, 1 the system refused or a run of a suite failed, 2 bad input or
    settings, 128 + signal when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(words)
    args.argv = words
    missing = [n for n in ("transformers", "pyarrow") if importlib.util.find_spec(n) is None]
    if missing:
        print(
            f"finesieve: error: the command line needs {' and '.join(missing)}: "
            "pip install 'finesieve[cli]'",
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
            run = {"train": _train, "compare": _compare, "bench": _bench, "report": _report}
            return run[args.command](args)
    except FinesieveError as error:
        print(f"finesieve: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(
            "\nfinesieve: stopped at once; nothing was saved since the last checkpoint",
            file=sys.stderr,
        )
        return 130
    except OSError as error:  # a full disk, a folder without rights
        print(f"finesieve: error: {error}", file=sys.stderr)
        return 1
