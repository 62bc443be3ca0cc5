"""What is measured of a run, and how a figure and its change are shown."""

from __future__ import annotations

from dataclasses import dataclass


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
        scale, percent, unit = (100, " %", " points") if self.percent else (1, "", "")
        old, new = scale * old, scale * new
        form = _agreeing(old, new, ".1f" if self.percent else self.form)
        between = ""
        if interval is not None:
            low, high = (f"{scale * x:+{form}}" for x in interval)
            between = f", 95 % interval {low} to {high}"
        return f"{old:{form}} -> {new:{form}}{percent} ({new - old:+{form}}{unit}{between})"


_MORE = 3  # digits at the most that make a difference agree with its values


def _agreeing(old: float, new: float, form: str) -> str:
    """Return the format, with as many more digits as it takes until the difference shown is that of
    the values shown: 96.34 -> 96.38 (+0.04), not 96.3 -> 96.4 (+0.0).

    Args:
        form: like ".1f"; others are returned as they are.
    """
    if not form.endswith("f"):
        return form
    least = int(form[1:-1])
    for digits in range(least, least + _MORE + 1):
        if round(round(new, digits) - round(old, digits), digits) == round(new - old, digits):
            return f".{digits}f"
    return form


ACCURACY = Measure("accuracy", "accuracy", ".3f", percent=True)
MACRO_F1 = Measure("macro_f1", "macro-F1", ".3f", percent=True)
SPEARMAN = Measure("spearman", "Spearman", ".3f")
PEARSON = Measure("pearson", "Pearson", ".3f")
RMSE = Measure("rmse", "RMSE", ".3g")  # in the labels' own unit, which may be large or small
MICRO_F1 = Measure("micro_f1", "micro-F1", ".3f", percent=True)
EXACT = Measure("exact", "all labels right", ".3f", percent=True)
ENTITY_F1 = Measure("entity_f1", "entity F1", ".3f", percent=True)
TOKEN_ACCURACY = Measure("token_accuracy", "token accuracy", ".3f", percent=True)
LOSS = Measure("loss", "held-out loss", ".4f")
