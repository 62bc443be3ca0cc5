"""What to know of a model that gives a text several labels: micro- and macro-F1, recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Marks = npt.NDArray[np.bool_]


def labelling(predicted: Marks, marks: Marks, names: Sequence[Any]) -> dict[str, Any]:
    """Judge predicted labels.

    Args:
        predicted, marks: bool[n, labels], which labels an example is given, and which it has.
        names: of all labels.

    Returns `micro_f1`, F1 = 2 tp / (predicted + there) over all labels of all examples together;
    `macro_f1`, the mean of each label's F1 over those that were predicted or are there, as
    scikit-learn has both (0 where there are none at all); `exact`, the share of examples whose
    labels are all right, none too many; `majority`, the micro-F1 of always naming the most frequent
    label, which is `majority_label`; `only_set`, the labels, joined by commas, that every example
    was given while the examples have different ones, else None; and `classes`, of each label its
    `name`, `n` (examples that have it), `predicted`, `recall` and `precision`, None where it has
    none of them. Shares are in [0, 1].
    """
    there, found = marks.sum(axis=0), predicted.sum(axis=0)
    right = (marks & predicted).sum(axis=0)
    both = there + found
    met = both > 0
    most = int(there.argmax())
    given = {row.tobytes() for row in predicted}
    same = len(given) == 1 and len(Counter(row.tobytes() for row in marks)) > 1
    return {
        "micro_f1": float(2 * right.sum() / both.sum()) if both.sum() else 0.0,
        "macro_f1": float(np.mean(2.0 * right[met] / both[met])) if met.any() else 0.0,
        "exact": float((marks == predicted).all(axis=1).mean()),
        "majority": float(2 * there[most] / (len(marks) + there.sum())),
        "majority_label": str(names[most]),
        "only_set": ", ".join(str(names[int(i)]) for i in np.flatnonzero(predicted[0]))
        if same
        else None,
        "classes": [
            {
                "name": str(name),
                "n": int(there[i]),
                "predicted": int(found[i]),
                "recall": float(right[i] / there[i]) if there[i] else None,
                "precision": float(right[i] / found[i]) if found[i] else None,
            }
            for i, name in enumerate(names)
        ],
    }
