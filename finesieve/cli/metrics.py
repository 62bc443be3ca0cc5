"""What to know of a classifier: accuracy, macro-F1, each class's recall, the majority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_RARE = 0.9  # a class of this share of the data may well be all that a model predicts


def classification(
    predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], names: Sequence[Any]
) -> dict[str, Any]:
    """Judge predicted classes.

    Args:
        predicted, labels: int64[n], numbers of classes.
        names: of all classes.

    Returns `accuracy`; `macro_f1`, the mean of F1 = 2 tp / (2 tp + fp + fn) over the classes that
    were predicted or are among the labels, as scikit-learn has it; `majority`, the accuracy of
    always naming the most frequent of the labels; and `classes`: of each class its `name`, `n`
    (labels), `predicted` (predictions), and `recall` and `precision`, None where it has none of
    them. Shares are in [0, 1].
    """
    count = len(names)
    actual, found = np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count)
    right = np.bincount(labels[predicted == labels], minlength=count)
    met = (actual + found) > 0
    f1 = 2.0 * right[met] / (actual + found)[met]
    return {
        "accuracy": float(right.sum() / len(labels)),
        "macro_f1": float(f1.mean()),
        "majority": float(actual.max() / len(labels)),
        "classes": [
            {
                "name": str(name),
                "n": int(actual[i]),
                "predicted": int(found[i]),
                "recall": float(right[i] / actual[i]) if actual[i] else None,
                "precision": float(right[i] / found[i]) if found[i] else None,
            }
            for i, name in enumerate(names)
        ],
    }


def only_class(judged: Mapping[str, Any]) -> str | None:
    """Return the name of the class that a model predicts for everything, if it does so, and the
    labels are of several classes.

    Args:
        judged: what `classification` returned, or a record's `eval`, which may be older and lack
            it.
    """
    classes = judged.get("classes", ())
    there = [c["name"] for c in classes if c["predicted"]]
    return there[0] if len(there) == 1 and sum(c["n"] > 0 for c in classes) > 1 else None


def one_class_warning(judged: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return a warning if a model predicts one class for everything, with the likely cause.

    Args:
        config: the run's settings.
    """
    name = only_class(judged)
    if name is None:
        return None
    if judged["majority"] > _RARE:
        cause = (
            f"{judged['majority']:.0%} of the labels are of one class, so naming it always is hard "
            "to beat: look at macro-F1 and recall, or train on data that are less one-sided"
        )
    else:
        cause = likely_cause(config)
    return f"the trained model predicts {name!r} for every evaluation example. {cause}"


def likely_cause(config: Mapping[str, Any]) -> str:
    """Return why a model with these settings has probably learned nothing."""
    if config["lora"] or config["freeze"]:
        what = "LoRA adapters" if config["lora"] else "a model with frozen layers"
        return (
            f"{what} need a learning rate about ten times as high, or more steps; --lr is "
            f"{config['lr']:g}"
        )
    if config["lr"] > 5e-4:
        return f"the learning rate is probably too high for this model: --lr is {config['lr']:g}"
    return (
        "training was probably too short for this model to learn anything (more examples or "
        f"--epochs), or --lr, {config['lr']:g}, is far too low or too high for it"
    )
