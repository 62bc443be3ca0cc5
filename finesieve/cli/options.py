"""The options of every command, and their help. Nothing heavy is loaded for them."""

from __future__ import annotations

import argparse

from finesieve import __version__
from finesieve.cli import shared
from finesieve.cli.arguments import Parser
from finesieve.cli.config import ATTENTION, CLOCKS, METHODS, PRECISIONS, TASKS
from finesieve.cli.inspecting import command as inspecting


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
        help="folder or hub id of any encoder or classifier (default: %(default)s, "
        "the encoder from the extra 'demo')",
    )
    shared.add_columns(group)
    group.add_argument(
        "--task",
        choices=TASKS,
        default="classification",
        help="what a label is: one class; a number to predict (regression); any number of classes, "
        "as a list or like a|b (multi-label); a tag for each word, for named entities and the like "
        "(token-labels) (default: %(default)s)",
    )
    group.add_argument(
        "--label-names",
        metavar="FILE",
        help="the names of labels that are numbers, for multi-label and token-labels: a file with "
        "a name a line, or the names with commas between them",
    )
    group.add_argument(
        "--keep-empty",
        action="store_true",
        help="keep rows with an empty text (dropped by default)",
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
        help="fit the new head to the first N examples before "
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
    shared.add_length(group)
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
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="auto: bf16 where the device has instructions for it (default: %(default)s)",
    )
    group.add_argument(
        "--attention",
        choices=("auto", *ATTENTION),
        default="auto",
        help="how attention is computed (default: auto: eager in bf16 on a CPU up "
        "to 256 tokens, where it trains up to 1.7 times faster; else the model's "
        "own)",
    )
    shared.add_device(group)
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
        help="a setting of the method (of finesieve, in compare), may repeat: e.g. budget=0.3, "
        'or share=0.3 for random; VALUE is JSON: --set \'starts={"2": 0.05, "3": 0.2}\' sets the '
        "stages by hand. `--set help` lists all settings of the method",
    )


_STAGES = """\
what the default method does:
  stage 1  trains on everything, and learns which examples have large gradients
  stage 2  scores every example by a forward pass without gradient, and trains on a share,
           chosen and weighted so that the gradient is right on average
  stage 3  lets a small predictor decide which examples are scored at all
Stages change by themselves where that saves time, back too; where nothing can be saved,
everything is trained on.

a budget: `--set budget=0.3` spends 30 % of the time that training on everything would take:
on a random subset, until choosing examples is measured to be the better use of it.

  finesieve train --train train.csv --eval test.csv --output out
  finesieve train --train train.csv --output out --set budget=0.3
  finesieve train --train train.csv --output out --method random --set share=0.3
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="finesieve",
        description="Fine-tune a model that classifies texts, tags their words or predicts a "
        "number, without spending compute on examples that teach it nothing.",
    )
    top.add_argument("--version", action="version", version=f"finesieve {__version__}")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )

    train = commands.add_parser(
        "train",
        help="fine-tune one model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fine-tune one model. Writes model/, summary.json, run.jsonl and "
        "examples.parquet\ninto the output folder. Ctrl-C and SIGTERM save a checkpoint.",
        epilog=_STAGES,
    )
    _data_options(train)
    train.add_argument("--output", required=True, metavar="FOLDER", help="new or empty folder")
    train.add_argument(
        "--method",
        default="finesieve",
        help=f"{', '.join(METHODS)}, or module:function of your own (default: %(default)s)",
    )
    shared.add_seed(train)
    train.add_argument(
        "--resume", action="store_true", help="go on with the interrupted run in the output folder"
    )
    shared.add_quiet(train)
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
    compare.add_argument(
        "--resume",
        action="store_true",
        help="go on with the interrupted comparison in the output folder; finished runs are kept, "
        "and there may be more methods and seeds than before",
    )
    shared.add_quiet(compare)
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
    inspecting.add_commands(commands)
    return top
