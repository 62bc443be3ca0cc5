"""What was found in a data set, in sentences, the most useful first."""

from __future__ import annotations

import numpy as np

from finesieve.insight.curves import Curve, easiest_share
from finesieve.insight.data import Found
from finesieve.insight.labels import Judged

LOWER = (
    "This number is only a lower bound where mistakes gather on hard rows, as those of annotators "
    "often do: a model makes the same ones."
)
SMALL = 20  # rows: a class with fewer is named as small


def sentences(found: Found, conflicts: int, empty: int, long: int) -> list[str]:
    """Returns what was found, the most useful first, one sentence each.

    Args:
        found: all of it.
        conflicts: groups of repeats in which labels disagree.
        empty, long: texts without anything in them, and those that are longer than the model was
            shown.
    """
    data, out = found.data, []
    n = len(data)
    if found.answered is not None:
        out += found.answered.sentences()
    if found.judged is not None:
        out.append(_wrong(found.judged, n))
        if found.judged.told:
            out.append(LOWER)
    copies = int((found.exact != np.arange(n)).sum())
    near = int((found.near != np.arange(n)).sum()) - copies
    out.append(
        f"Copies of another row: {copies:,}; near copies: {near:,}"
        + (f". Groups of them in which labels disagree: {conflicts:,}." if conflicts else ".")
    )
    if found.sizes is not None:
        out.append(
            f"The easiest half of the rows carries {_percent(easiest_share(found.sizes))} of the "
            "gradient."
        )
    if found.curve is not None:
        out.append(_enough(found.curve, n))
    if found.unlearned is not None:
        out.append(
            f"Rows that a head gets wrong even after it was fitted to them: "
            f"{int(found.unlearned.sum()):,}."
        )
    if empty or long:
        out.append(
            f"Empty texts: {empty:,}; texts longer than the {found.limit} tokens that the model "
            f"was shown: {long:,}."
        )
    if data.labels is not None:
        counts = np.bincount(data.labels, minlength=len(data.names))
        small = [str(data.names[k]) for k in np.flatnonzero(counts < SMALL).tolist()]
        if small:
            more = ", ..." if len(small) > 8 else ""
            out.append(
                f"Classes with fewer than {SMALL} rows, too few to judge their labels by: "
                f"{', '.join(small[:8])}{more}."
            )
    return [*out, *found.notes]


def _wrong(judged: Judged, n: int) -> str:
    """Returns in a sentence how many labels look wrong."""
    wrong = judged.wrong
    between = f"{_count(wrong.low)} to {_count(wrong.high)}"
    if not judged.told:
        return (
            f"How many of {n:,} labels are wrong cannot be told ({between}): the model errs on its "
            "surest rows, too. The most suspicious are listed first."
        )
    return (
        f"About {_count(wrong.value)} of {n:,} labels look wrong ({between}); the most suspicious "
        "are listed first."
    )


def _count(value: float) -> str:
    return f"{round(value):,}"


def _enough(curve: Curve, n: int) -> str:
    """Returns the forecast for twice the data, in a sentence."""
    gain = curve.forecast[2.0]
    now = f"{curve.now:.1%} of the rows are classified wrongly by a head that has not seen them"
    capped = curve.sizes[-1] < 0.99 * curve.base
    now += f" and was fitted to {curve.sizes[-1]:,} others; " if capped else "; "
    if not curve.told:
        return now + "whether more data would help cannot be told from these."
    value, low, high = -100 * gain.value, -100 * gain.high, -100 * gain.low
    if high < 0.5:
        return now + f"another {n:,} rows would change that by less than half a point."
    return now + (
        f"another {n:,} rows would lower that by {_points(value)} points ({_points(low)} to "
        f"{_points(high)})."
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 or share == 0.0 else "less than 1%"


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # without the sign of a zero
