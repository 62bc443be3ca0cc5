"""How what is measured of a run is shown, by its task: in tables, on a terminal, on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finesieve.cli.results import Record


@dataclass(frozen=True)
class Measure:
    """A figure in the `eval` of a record.

    Args:
        key: its name there.
        head: its name for people.
        form: of a number, as Python formats it.
        percent: whether it is shown in percent, and its differences in points, in sentences.
    """

    key: str
    head: str
    form: str
    percent: bool = False

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return self.head[0].upper() + self.head[1:]

    def shown(self, value: float) -> str:
        """Returns the value for a table."""
        return f"{value:{self.form}}"

    def changed(self, old: float, new: float, interval: tuple[float, float] | None = None) -> str:
        """Returns "97.6 -> 96.1 % (-1.5 points, 95 % interval -2.1 to -0.9)", or without percent.

        Args:
            interval: of the difference, if it is known.
        """
        form = ".1f" if self.percent else self.form
        scale, percent, unit = (100, " %", " points") if self.percent else (1, "", "")
        between = ""
        if interval is not None:
            low, high = (f"{scale * x:+{form}}" for x in interval)
            between = f", 95 % interval {low} to {high}"
        return (
            f"{scale * old:{form}} -> {scale * new:{form}}{percent} "
            f"({scale * (new - old):+{form}}{unit}{between})"
        )


ACCURACY = Measure("accuracy", "accuracy", ".3f", percent=True)
MACRO_F1 = Measure("macro_f1", "macro-F1", ".3f", percent=True)
SPEARMAN = Measure("spearman", "Spearman", ".3f")
PEARSON = Measure("pearson", "Pearson", ".3f")
RMSE = Measure("rmse", "RMSE", ".3g")  # in the labels' own unit, which may be large or small
LOSS = Measure("loss", "held-out loss", ".4f")
OF_CLASSES, OF_NUMBERS = (ACCURACY, MACRO_F1), (SPEARMAN, PEARSON, RMSE)


def is_regression(runs: Sequence[Record]) -> bool:
    """Return whether these runs, of one set, predict numbers instead of classes."""
    return bool(runs) and all(SPEARMAN.key in r.get("eval", {}) for r in runs)


def main_measure(runs: Sequence[Record]) -> Measure:
    """Return the one figure that says best how good runs of one set are."""
    return SPEARMAN if is_regression(runs) else ACCURACY


def in_short(result: Mapping[str, Any]) -> str:
    """Return a line on a run's `eval`, as the progress of several runs shows it."""
    main = SPEARMAN if SPEARMAN.key in result else ACCURACY
    return f"{main.head} {result[main.key]:.4f}, loss {result['loss']:.4f}"


def in_full(result: Mapping[str, Any]) -> str:
    """Return a line on a run's `eval`, as the end of one run shows it."""
    if SPEARMAN.key in result:
        return (
            f"Spearman {result['spearman']:.4f}  Pearson {result['pearson']:.4f}  "
            f"RMSE {result['rmse']:.4g}  loss {result['loss']:.4f}  (n={result['n']}; always "
            f"naming the mean: RMSE {result['mean_rmse']:.4g})"
        )
    return (
        f"accuracy {result['accuracy']:.4f}  macro-F1 {result['macro_f1']:.4f}  "
        f"loss {result['loss']:.4f}  (n={result['n']}; always naming the most frequent class: "
        f"accuracy {result['majority']:.4f})"
    )


def in_words(result: Mapping[str, Any]) -> str:
    """Return sentences on a run's `eval`, as the page of one run shows them."""
    where = f"{result['n']:,} evaluation examples"
    if SPEARMAN.key in result:
        return (
            f"It reached a Spearman correlation of {result['spearman']:.3f} (Pearson "
            f"{result['pearson']:.3f}), a root mean squared error (RMSE) of {result['rmse']:.3g} "
            f"in the unit of the labels, and a loss of {result['loss']:.4f} on {where}. Always "
            f"naming the mean would have an RMSE of {result['mean_rmse']:.3g}. Losses are squared "
            "errors in standard deviations of the labels."
        )
    told = (
        f"It reached an accuracy of {result['accuracy']:.1%} and a loss of {result['loss']:.4f} "
        f"on {where}."
    )
    if "macro_f1" in result:
        told += (
            f" Macro-F1, the mean over classes, is {result['macro_f1']:.1%}; always naming the "
            f"most frequent class would have an accuracy of {result['majority']:.1%}."
        )
    return told


def baseline(records: Sequence[Record]) -> str:
    """Return a line on what naming always the same would reach, where known."""
    told = []
    results = [r.get("eval", {}) for r in records]
    classes = [e["majority"] for e in results if "majority" in e]
    numbers = [e["mean_rmse"] for e in results if "mean_rmse" in e]
    if classes:
        told.append(
            f"Always naming the most frequent class would have an accuracy of {max(classes):.3f}."
        )
    if numbers:
        told.append(f"Always naming the mean would have an RMSE of {min(numbers):.3g}.")
    return " ".join(told)
