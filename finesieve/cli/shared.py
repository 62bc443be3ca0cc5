"""Options that several commands have, each with the same name, meaning and help."""

from __future__ import annotations

from typing import Any

from finesieve.cli.data.labels import UNLABELLED


def add_columns(group: Any) -> None:
    """Adds the options for the columns of the data: --text, --text-pair, --label, --unlabelled.

    Args:
        group: a parser, or a group of its arguments.
    """
    group.add_argument("--text", metavar="COLUMN", help="text column (found by usual names)")
    group.add_argument("--text-pair", metavar="COLUMN", help="second text, for pairs")
    group.add_argument("--label", metavar="COLUMN", help="label column (found by usual names)")
    group.add_argument(
        "--unlabelled",
        choices=UNLABELLED,
        default="refuse",
        help="rows without a label, or with one like nan or -1 that probably says so: refuse them "
        "(default), drop them, or keep such labels as classes",
    )


def add_length(group: Any) -> None:
    """Adds --max-length to a parser, or to a group of its arguments."""
    group.add_argument(
        "--max-length",
        type=int,
        default=128,
        metavar="TOKENS",
        help="longer texts are cut (default: %(default)s)",
    )


def add_device(group: Any) -> None:
    """Adds --device and --threads to a parser, or to a group of its arguments."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of PyTorch")


def add_seed(parser: Any) -> None:
    """Adds --seed to a parser."""
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")


def add_quiet(parser: Any) -> None:
    """Adds --quiet to a parser."""
    parser.add_argument("--quiet", action="store_true", help="no progress")
