"""`finesieve inspect`: reads the data, trains if asked to, and looks at every row."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from finesieve.cli.config import Config, config_of
from finesieve.cli.data.columns import find_columns, has_label
from finesieve.cli.data.labels import number_to_predict
from finesieve.cli.data.lean import Lean
from finesieve.cli.data.streaming import lean_rows
from finesieve.cli.data.table import Table, label_names, table_of
from finesieve.cli.inspecting.answers import drawn, inspect_answers, told
from finesieve.cli.inspecting.room import check_room
from finesieve.cli.tasks.targets import Classes
from finesieve.cli.training.batches import Examples
from finesieve.cli.training.models import check_length, load_model, load_tokenizer, pick_device
from finesieve.cli.training.prepare import Prepared
from finesieve.cli.training.runfiles import EXAMPLES
from finesieve.cli.training.train import train
from finesieve.errors import ConfigError
from finesieve.insight.data import Data
from finesieve.insight.insights import Insights
from finesieve.insight.inspecting import FEWEST, NO_LABELS, NUMBERS, look
from finesieve.insight.visits import Visits

_EVALUATED = 16  # rows: an evaluation that nobody reads
LENGTH = 128  # tokens of a text, by default
NO_LABEL = "label"  # the column that unlabelled rows are read with


def inspect_source(args: argparse.Namespace) -> Insights:
    """Reads the data, trains if asked to, and returns what was found, as the options say.

    Raises:
        ConfigError: for options out of range, and an output folder in use.
        DataError: for data that cannot be read.
    """
    folder = Path(args.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output {folder} is not empty: choose another folder, or empty it")
    if args.threads is not None:
        if args.threads < 1:
            raise ConfigError(f"threads is {args.threads}; expected 1 or more")
        torch.set_num_threads(args.threads)
    if args.folds < 2 or (args.max_length is not None and args.max_length < 1):
        raise ConfigError(
            f"folds is {args.folds} and max-length {args.max_length}; expected 2 and 1 or more"
        )
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"limit is {args.limit}; expected 1 or more")
    tell = _Progress(args.quiet)
    if args.language_model:
        found = inspect_answers(args, tell)
        tell.end()
        return found
    args.max_length = args.max_length or LENGTH
    table, labelled, why, said = _read(args)
    data = _data(args.train, table, labelled)
    if args.model == "none":
        if why != NO_LABELS:
            said.append(why)
        return look(None, None, data, seed=args.seed, tell=tell, notes=said)
    trains = not args.no_train and labelled and len(data) >= FEWEST and len(data.names) > 1
    if trains:
        config = config_of(args)
        prepared, visits = _prepared(table, config), Visits(len(data), args.thorough)
        visits.tokens = prepared.train.tokens
        train(config, str(folder / "run"), data=prepared, quiet=args.quiet, visits=visits)
        found = look(
            visits.model,
            prepared.tokenizer,
            data,
            max_length=args.max_length,
            folds=args.folds,
            pool="head",
            seed=args.seed,
            visits=visits,
            tell=tell,
            notes=said,
            first_losses=_first_losses(folder / "run" / EXAMPLES, data),
        )
    else:
        tokenizer = load_tokenizer(args.model)
        model = load_model(args.model, list(range(max(2, len(data.names)))), args.seed)
        check_length(model, args.max_length)
        found = look(
            model.to(pick_device(args.device)),
            tokenizer,
            data,
            max_length=args.max_length,
            folds=args.folds,
            seed=args.seed,
            tell=tell,
            unlabelled=why,
            notes=said,
        )
    tell.end()
    return found


def _read(args: argparse.Namespace) -> tuple[Table, bool, str, list[str]]:
    """Reads the rows that are looked at.

    Returns:
        The rows, whether they have labels to judge, what to say if not, and what to say of the
        rows.
    """
    room = (args.train, args.model != "none", args.limit)
    check_room(*room)
    rows, notes = lean_rows(
        args.train, args.text, args.text_pair, args.label, lambda: check_room(*room, whole=True)
    )
    labelled, why = args.label is not None or has_label(rows), NO_LABELS
    label = NO_LABEL
    if labelled:
        label = find_columns(args.train, rows, args.text, args.text_pair, args.label)[2]
        number = number_to_predict(row.get(label) for row in rows)
        if number:
            labelled, why = False, NUMBERS.format(label=label, number=number)
    if not labelled:
        if isinstance(rows, Lean):
            rows.fill(label, 0)
        else:
            for row in rows:
                row[label] = 0
    unlabelled = args.unlabelled if labelled else "keep"
    table = table_of(args.train, rows, notes, args.text, args.text_pair, label, True, unlabelled)
    del rows  # the table has what is needed of them
    if not args.quiet:
        for note in table.notes:
            print(note, file=sys.stderr)
    some = drawn(len(table), args.limit, args.seed)
    if some is None:
        return table, labelled, why, []
    few = table.take(some.tolist())
    few.digest = table.digest
    return few, labelled, why, [told(len(some), len(table))]


def _prepared(table: Table, config: Config) -> Prepared:
    """Returns all rows, ready for training; a few of them stand for evaluation data, which nobody
    reads."""
    labels = label_names(table, [])
    number, tokenizer = Classes(labels), load_tokenizer(config.model)
    few = table.take(np.linspace(0, len(table) - 1, _EVALUATED).astype(int).tolist())
    return Prepared(
        tokenizer,
        list(labels),
        number,
        Examples(table, number, tokenizer, config.max_length),
        np.asarray(table.rows, dtype=np.int64),
        {"training rows": Examples(few, number, tokenizer, config.max_length)},
        [],
        table.digest,
        {"digest": table.digest, "columns": list(table.columns)},
    )


def _data(source: str, table: Table, labelled: bool) -> Data:
    name, rows = Path(source).name, np.asarray(table.rows, dtype=np.int64)
    if not labelled:
        return Data(name, table.texts, table.pairs, None, (), rows)
    mixed = any(isinstance(y, str) for y in table.labels)
    known = sorted({str(y) if mixed else y for y in table.labels})
    place = {y: i for i, y in enumerate(known)}
    given = (place[str(y) if mixed else y] for y in table.labels)
    labels = np.fromiter(given, np.int64, len(table))
    return Data(name, table.texts, table.pairs, labels, [str(y) for y in known], rows)


def _first_losses(path: Path, data: Data) -> npt.NDArray[np.float32]:
    """Returns each row's loss before it was trained on, float32[n]; NaN for rows that were held out
    or never scored."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["row", "epoch", "loss"]).to_pydict()
    found = {
        row: loss
        for row, epoch, loss in zip(table["row"], table["epoch"], table["loss"], strict=True)
        if epoch == 1 and loss is not None
    }
    return np.asarray([found.get(row, np.nan) for row in data.rows.tolist()], dtype=np.float32)


class _Progress:
    """One line on the terminal that says what is being done."""

    def __init__(self, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    def __call__(self, what: str, share: float) -> None:
        if self._shown:
            print(f"\rlooking at {what}: {share:4.0%}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the line."""
        if self._shown:
            print(file=sys.stderr)
