"""The options of `finesieve inspect` and `finesieve clean`, and what they print."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from finesieve.cli import shared


def add_commands(commands: Any) -> None:
    """Adds both commands to a parser's."""
    look = commands.add_parser(
        "inspect",
        help="look a data set over: wrong labels, repeats, what is hard, what is enough",
        description="Train on the data for one epoch, look at every row again with heads that have "
        "not seen it, and write insights.html, issues.csv, examples.parquet, labels.npy and "
        "pred_probs.npy into the output folder.",
    )
    look.add_argument("train", metavar="DATA", help="as --train of `finesieve train`")
    look.add_argument("--output", required=True, metavar="FOLDER", help="new or empty folder")
    look.add_argument(
        "--model",
        default="minilm",
        help="folder or hub id; 'none' finds repeats alone (default: %(default)s)",
    )
    look.add_argument(
        "--no-train",
        action="store_true",
        help="leave the model as it is and fit heads to its features: much faster",
    )
    look.add_argument(
        "--thorough",
        action="store_true",
        help="after training, look again at the first fifth of the stream, not at a tenth or 400 "
        "rows, and at all rows that the filter passed over: ranks labels a little better",
    )
    look.add_argument(
        "--language-model",
        action="store_true",
        help="the model is a causal language model: look at tokens, targets and losses of rows "
        "with messages, with prompt and completion, or with texts; nothing is trained",
    )
    shared.add_columns(look)
    look.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="look at N random rows only; row numbers stay those of the data",
    )
    look.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens of a text (default: 128; of a language model's row 1,024)",
    )
    look.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    shared.add_seed(look)
    shared.add_device(look)
    shared.add_quiet(look)
    clean = commands.add_parser(
        "clean",
        help="write the data without the rows that a person confirmed as wrong",
        description="Rows with 'yes' in the column 'confirmed' of --drop are left out, no others.",
    )
    clean.add_argument("train", metavar="DATA", help="the data that were inspected")
    clean.add_argument("--drop", required=True, metavar="issues.csv", help="written by `inspect`")
    clean.add_argument(
        "--output", required=True, metavar="FILE", help=".csv, .tsv, .jsonl or .parquet"
    )


def inspect(args: argparse.Namespace) -> int:
    """Runs `finesieve inspect`."""
    from finesieve.cli.inspecting.look import inspect_source

    found = inspect_source(args)
    for sentence in found.sentences():
        print(sentence)
    print(f"written: {args.output}: {', '.join(p.name for p in found.export(args.output))}")
    return 0


def clean(args: argparse.Namespace) -> int:
    """Runs `finesieve clean`."""
    from finesieve.cli.inspecting.clean import clean as write

    dropped, kept, notes = write(args.train, args.drop, args.output)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{dropped:,} confirmed rows left out, {kept:,} written: {args.output}")
    return 0
