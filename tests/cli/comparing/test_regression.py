"""Comparisons of runs that predict numbers: the verdict in words, and which columns are shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.comparing.runs import NEUTRAL
from finesieve.cli.comparing.tables import HEADS, new_columns, set_table, table
from finesieve.cli.comparing.verdict import verdict
from finesieve.cli.config import Config
from finesieve.cli.measures import ACCURACY, RMSE, SPEARMAN
from finesieve.cli.results import pack_examples, unpack_examples
from finesieve.cli.tasks.registry import baseline, of_runs
from tests.cli.comparing.test_compare import three


def numbers(name: str, loss: float, seconds: float, **more: Any) -> list[dict[str, Any]]:
    """Three seeds of a method; the correlation differs a little between them."""
    runs = three(name, loss, seconds)
    for r in runs:
        losses = unpack_examples(r["eval_examples"])[0]
        shift = 0.001 * r["seed"]
        r["eval"] = {
            "spearman": 1 - loss - (shift if name == "full" else -shift),
            "pearson": 0.9 - loss,
            "rmse": 40 * loss**0.5,
            "mean_rmse": 40.0,
            "spread": 35.0,
            "loss": loss,
            "n": 500,
            **more,
        }
        r["eval_examples"] = pack_examples(losses)
    return runs


def test_the_verdict_says_spearman_and_the_error_in_its_unit() -> None:
    runs = [*numbers("full", 0.2, 100), *numbers("finesieve", 0.25, 50), *numbers(RIVAL, 0.3, 50)]
    full, rival, *cautions = verdict(runs).split("\n\n")
    assert full.startswith(
        "finesieve against full training: 50% less time (50.0 s instead of 100.0 s); "
        "Spearman 0.799 -> 0.751 (-0.048, 95 % interval -0.053 to -0.043), "
        "RMSE 17.9 -> 20 (+2.11, 95 % interval"
    )
    assert ", held-out loss 0.2000 -> 0.2500 (+0.0500, 95 % interval" in full
    assert rival.startswith("finesieve against random at equal time: better; held-out loss -16.")
    assert " Spearman 0.701 -> 0.751 (+0.050" in rival
    assert cautions == []
    flat = [r for r in runs if r["name"] != "finesieve"] + numbers("finesieve", 0.25, 50, spread=0)
    assert "Caution: finesieve predicts nearly the same number for everything" in verdict(flat)


def test_sets_of_both_kinds_stand_side_by_side() -> None:
    one = [*numbers("full", 0.2, 100), *numbers("finesieve", 0.25, 50)]
    other = [
        {**r, "set": "u"} for m in (("full", 0.2, 90), ("finesieve", 0.3, 60)) for r in three(*m)
    ]
    told = verdict([*one, *other])
    assert "1.75x as fast on average over 2 sets" in told
    assert "; accuracy +0.00 points on 1 of them; Spearman -0.048 on 1; deciding" in told
    lines = table([*one, *other]).splitlines()
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads[3:7] == ["accuracy", "Spearman", "Pearson", "RMSE"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[3] for row in cells] == ["", "", "0.800", "0.700"]
    assert [row[4] for row in cells] == ["0.799", "0.751", "", ""]
    assert "accuracy" not in set_table(one)
    assert "Spearman" not in set_table(other)


def test_where_all_runs_failed_the_table_is_that_of_classes() -> None:
    line = ["full", "failed", *[""] * (len(HEADS) - 2)]
    shown = [HEADS[i] for i in new_columns(HEADS, [line])]
    assert ACCURACY.head in shown
    assert not {SPEARMAN.head, RMSE.head} & {*shown}


def test_naming_the_mean_and_a_line_of_progress() -> None:
    (run, *_) = numbers("full", 0.2, 100)
    assert baseline([run]) == "Always naming the mean would have an RMSE of 40."
    assert of_runs([run]).in_short(run["eval"]) == "Spearman 0.8000, loss 0.2000"


def test_numbers_have_no_right_and_wrong() -> None:
    loss, right = unpack_examples(pack_examples([0.5, 2.0]))
    assert loss.tolist() == [0.5, 2.0]
    assert right.dtype == np.bool_
    assert len(right) == 0


def test_records_from_before_the_option_are_of_classes() -> None:
    assert NEUTRAL["task"] == Config(train="t.csv").task
