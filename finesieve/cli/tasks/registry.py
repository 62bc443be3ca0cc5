"""The tasks by name, and the one that records are of."""

from __future__ import annotations

from collections.abc import Sequence

from finesieve.cli.measures import (
    ACCURACY,
    ENTITY_F1,
    EXACT,
    MACRO_F1,
    MICRO_F1,
    PEARSON,
    RMSE,
    SPEARMAN,
    TOKEN_ACCURACY,
)
from finesieve.cli.results import Record
from finesieve.cli.tasks.classification import Classification
from finesieve.cli.tasks.multi_label import MultiLabel
from finesieve.cli.tasks.regression import Regression
from finesieve.cli.tasks.task import Result, Task
from finesieve.cli.tasks.token_labels import PlainTags, TokenLabels
from finesieve.errors import ConfigError

TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Regression(), MultiLabel(), TokenLabels())
}
# What the figures of a record may be of. The one of classes is last: others have its figures, too.
_SHOWN: tuple[Task, ...] = (
    TASKS["regression"],
    TASKS["multi-label"],
    TASKS["token-labels"],
    PlainTags(),
    TASKS["classification"],
)
FIGURES = (  # columns of a table, in their order
    ACCURACY,
    ENTITY_F1,
    TOKEN_ACCURACY,
    MICRO_F1,
    MACRO_F1,
    EXACT,
    SPEARMAN,
    PEARSON,
    RMSE,
)


def named(name: str) -> Task:
    """Return the task of this name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def of_result(result: Result) -> Task:
    """Return the task of a record's `eval`, by the figures that it has."""
    return next((t for t in _SHOWN if t.main.key in result), TASKS["classification"])


def of_runs(runs: Sequence[Record]) -> Task:
    """Return the task of these runs, all of one set."""
    return of_result(runs[0].get("eval", {})) if runs else TASKS["classification"]


def baseline(records: Sequence[Record]) -> str:
    """Return sentences on what always giving the same answer would reach, where it is known."""
    by_task: dict[Task, list[Result]] = {}
    for record in records:
        result = record.get("eval", {})
        by_task.setdefault(of_result(result), []).append(result)
    order = sorted(by_task, key=lambda task: -_SHOWN.index(task))
    return " ".join(told for task in order if (told := task.baseline(by_task[task])))
