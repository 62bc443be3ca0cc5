"""Data made ready for training: read, checked, held out, tokenised."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from finesieve.cli.config import Config
from finesieve.cli.data.names import read_names
from finesieve.cli.data.table import Table, load
from finesieve.cli.tasks.registry import TASKS, named
from finesieve.cli.tasks.targets import Scale, Targets
from finesieve.cli.tasks.task import Task
from finesieve.cli.training.batches import Examples
from finesieve.cli.training.models import load_tokenizer, pick_device, precision_note
from finesieve.errors import DataError

HOLD_OUT, HOLD_OUT_MOST = 0.1, 2000  # of the training data, where no evaluation data is given


@dataclass
class Prepared:
    """Data read, checked and tokenised; the same for every method that is compared."""

    tokenizer: Any
    labels: list[Any]  # names of the model's outputs; none of a regression
    targets: Targets
    train: Examples
    rows: Any  # int64[n]: each training example's row in its source
    evals: dict[str, Examples]
    notes: list[str]
    digest: str  # of the training texts and labels
    source: dict[str, Any]  # of the training data as a whole: its digest, and the columns taken
    task: Task = TASKS["classification"]

    @property
    def scale(self) -> Scale | None:
        """Returns the scale of a regression's targets; None of other tasks."""
        return self.targets if isinstance(self.targets, Scale) else None


def prepare(config: Config) -> Prepared:
    """Reads and tokenises the training and evaluation data; all complaints come from here.

    Raises:
        DataError: for data that cannot be read or used.
    """
    columns = (
        config.text,
        config.text_pair,
        config.label,
        config.keep_empty,
        config.unlabelled,
    )
    task, names = named(config.task), config.label_names
    train = load(config.train, *columns, split="train", task=task.name, label_names=names)
    source = {"digest": train.digest, "columns": list(train.columns)}
    slow = precision_note(config.precision, pick_device(config.device))
    notes = [train.taken, *train.notes, *([slow] if slow else [])]
    tables: dict[str, Table] = {}
    evals_named = config.eval
    if not evals_named and config.train == "docstrings":
        evals_named = ("docstrings:test",)
    for name in evals_named:
        tables[name] = load(name, *columns, split="validation", task=task.name, label_names=names)
        if tables[name].columns != train.columns:
            notes.append(tables[name].taken)
        notes += tables[name].notes
    # Looked at before anything is held out or left away.
    given = None if names is None else read_names(names)
    labels, more = task.names(train, list(tables.values()), given)
    notes += more
    order = np.random.default_rng([config.seed, 77]).permutation(len(train))
    if not tables:
        held = min(HOLD_OUT_MOST, int(HOLD_OUT * len(train)))
        if held < 1:
            raise DataError(
                f"{train.name} has {len(train)} examples, too few to hold some out for "
                "evaluation: give --eval"
            )
        tables["held out"] = train.take(list(order[:held]), f"{train.name} (held out)")
        train = train.take(list(order[held:]))
        notes.append(f"no --eval: {held} examples of {train.name} are held out for evaluation")
        order = np.random.default_rng([config.seed, 78]).permutation(len(train))
    # By all of it, so that rivals with another limit have their losses in the same unit.
    targets = task.targets(train, labels)
    if config.limit is not None and config.limit < len(train):
        train = train.take(list(order[: config.limit]))
    tokenizer = load_tokenizer(config.model, by_word=task.by_word)
    evals = {}
    for name, table in tables.items():
        if config.eval_limit is not None and config.eval_limit < len(table):
            some = np.random.default_rng(7).permutation(len(table))[: config.eval_limit]
            table = table.take(list(some))
        evals[name] = Examples(table, targets, tokenizer, config.max_length)
    examples = Examples(train, targets, tokenizer, config.max_length)
    notes += task.cut(
        {name: one.truth for name, one in {train.name: examples, **evals}.items()},
        config.max_length,
    )
    parts = [train.texts, train.pairs, train.labels]
    digest = hashlib.sha1(
        json.dumps(parts if train.words is None else [*parts, train.words]).encode()
    )
    rows = np.asarray(train.rows, dtype=np.int64)
    return Prepared(
        tokenizer, labels, targets, examples, rows, evals, notes, digest.hexdigest(), source, task
    )
