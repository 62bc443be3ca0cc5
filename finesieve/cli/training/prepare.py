"""Data made ready for training: read, checked, held out, tokenised."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from finesieve.cli.config import Config
from finesieve.cli.data.labels import amounts_hint
from finesieve.cli.data.table import Table, check_values, label_names, load
from finesieve.cli.training.batches import Examples
from finesieve.cli.training.models import load_tokenizer, pick_device, precision_note
from finesieve.cli.training.targets import Scale
from finesieve.errors import DataError

HOLD_OUT, HOLD_OUT_MOST = 0.1, 2000  # of the training data, where no evaluation data is given


@dataclass
class Prepared:
    """Data read, checked and tokenised; the same for every method that is compared."""

    tokenizer: Any
    labels: list[Any]  # the classes; none of a regression
    train: Examples
    rows: Any  # int64[n]: each training example's row in its source
    evals: dict[str, Examples]
    notes: list[str]
    digest: str  # of the training texts and labels
    source: dict[str, Any]  # of the training data as a whole: its digest, and the columns taken
    scale: Scale | None = None  # of a regression's targets; None for classes


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
    train = load(config.train, *columns, split="train", task=config.task)
    source = {"digest": train.digest, "columns": list(train.columns)}
    slow = precision_note(config.precision, pick_device(config.device))
    notes = [train.taken, *train.notes, *([slow] if slow else [])]
    tables: dict[str, Table] = {}
    names = config.eval
    if not names and config.train == "docstrings":
        names = ("docstrings:test",)
    for name in names:
        tables[name] = load(name, *columns, split="validation", task=config.task)
        if tables[name].columns != train.columns:
            notes.append(tables[name].taken)
        notes += tables[name].notes
    labels: list[Any] = []  # looked at before anything is held out or left away
    if config.task == "regression":
        notes += check_values(train, tables.values())
    else:
        labels = label_names(train, tables.values())
        hint = amounts_hint(train.labels)
        notes += [f"{train.name}: {hint}"] if hint else []
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
    scale = Scale.of(train.labels) if config.task == "regression" else None
    if config.limit is not None and config.limit < len(train):
        train = train.take(list(order[: config.limit]))
    number = scale or {name: i for i, name in enumerate(labels)}
    tokenizer = load_tokenizer(config.model)
    evals = {}
    for name, table in tables.items():
        if config.eval_limit is not None and config.eval_limit < len(table):
            some = np.random.default_rng(7).permutation(len(table))[: config.eval_limit]
            table = table.take(list(some))
        evals[name] = Examples(table, number, tokenizer, config.max_length)
    examples = Examples(train, number, tokenizer, config.max_length)
    digest = hashlib.sha1(json.dumps([train.texts, train.pairs, train.labels]).encode())
    rows = np.asarray(train.rows, dtype=np.int64)
    return Prepared(
        tokenizer, labels, examples, rows, evals, notes, digest.hexdigest(), source, scale
    )
