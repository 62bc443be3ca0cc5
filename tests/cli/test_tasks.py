"""Every task of the command line says all that is asked of it; figures agree with each other."""

from __future__ import annotations

import pytest

from finesieve.cli.config import TASKS as NAMES
from finesieve.cli.data.readers import READERS
from finesieve.cli.measures import ACCURACY, LOSS, RMSE, SPEARMAN, Measure
from finesieve.cli.tasks.registry import FIGURES, TASKS, named, of_result
from finesieve.errors import ConfigError


def test_the_names_are_those_that_options_take() -> None:
    assert (*TASKS,) == NAMES == (*READERS,)
    with pytest.raises(ConfigError, match="no task 'ner'; there are classification, "):
        named("ner")


@pytest.mark.parametrize("task", TASKS.values(), ids=[*TASKS])
def test_a_task_is_found_again_by_its_figures(task: object) -> None:
    assert task.name == task.reader.task
    assert {*task.figures, *task.told} <= {*FIGURES}
    assert task.paired in (None, *task.figures)
    found = of_result({one.key: 0.5 for one in task.figures} | {"loss": 1.0})
    assert found is task


@pytest.mark.parametrize(
    ("measure", "old", "new", "told"),
    [
        (ACCURACY, 0.976, 0.961, "97.6 -> 96.1 % (-1.5 points)"),
        (ACCURACY, 0.9634, 0.9638, "96.34 -> 96.38 % (+0.04 points)"),  # not 96.3 -> 96.4 (+0.0)
        (ACCURACY, 0.9766, 0.9612, "97.66 -> 96.12 % (-1.54 points)"),  # not 97.7 -> 96.1 (-1.5)
        (ACCURACY, 0.5, 0.5, "50.0 -> 50.0 % (+0.0 points)"),
        (LOSS, 0.20004, 0.20006, "0.20004 -> 0.20006 (+0.00002)"),
        (SPEARMAN, 0.799, 0.751, "0.799 -> 0.751 (-0.048)"),
        (RMSE, 17.9, 20.0, "17.9 -> 20 (+2.1)"),
    ],
)
def test_a_difference_agrees_with_its_values(
    measure: Measure, old: float, new: float, told: str
) -> None:
    assert measure.changed(old, new) == told


def test_the_interval_has_as_many_digits() -> None:
    told = ACCURACY.changed(0.9634, 0.9638, (-0.0002, 0.001))
    assert told.endswith("(+0.04 points, 95 % interval -0.02 to +0.10)")
