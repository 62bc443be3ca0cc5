"""Labels as places in a list of classes, held against what the model can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.errors import DataError
from finesieve.gates.features import IGNORED
from finesieve.scoring.mode import scoring, unwrapped
from finesieve.scoring.outputs import output_of

Ints = npt.NDArray[np.int64]
_NAMED = 8  # classes or labels that a message names


def numbered(given: list[Any], names: Sequence[str] | None) -> tuple[Ints, Sequence[str]]:
    """Returns labels as places in a list of names, int64[n], and the names.

    Args:
        given: n labels, whole numbers or words.
        names: of the classes, where labels are whole numbers.

    Raises:
        DataError: if a row has no label, or one that is no place in `names`.
    """
    missing = [i for i, x in enumerate(given) if x is None or x != x or x == "" or x == IGNORED]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(given)} rows have no label (rows {missing[:5]}, counted from "
            "0): remove them, or give label=None to look at repeats and lengths alone"
        )
    if names is not None:
        strange = sorted({str(x) for x in given if not _is_place(x, len(names))})
        if strange:
            raise DataError(
                f"labels {', '.join(strange[:5])} are none of 0 to {len(names) - 1}, the places in "
                "names"
            )
        return np.asarray([int(x) for x in given]), names
    known = sorted(set(given), key=lambda x: (isinstance(x, str), x))
    place = {name: i for i, name in enumerate(known)}
    return np.asarray([place[x] for x in given], dtype=np.int64), [str(x) for x in known]


def not_whole(given: list[Any]) -> float | None:
    """Returns a label that is a number but not a whole one, so that labels are no classes; None
    where there is none."""
    numbers = (x for x in given if isinstance(x, (float, np.floating)) and np.isfinite(x))
    return next((float(x) for x in numbers if x != int(x)), None)


def check_classes(model: nn.Module, tokenizer: Any, texts: Sequence[str], given: list[Any]) -> None:
    """Raises `DataError` if a label is none of the model's classes.

    How many there are says the configuration of a Hugging Face classifier; of a module that is not
    theirs, two texts that are run through it. A model without a head for classes says nothing.

    Args:
        model: which the labels are for.
        tokenizer: the model's.
        texts: at least one.
        given: the labels, whole numbers or words.
    """
    many, known = _classes(model, tokenizer, texts)
    if many is None or len(set(given)) > max(many, len(given) // 4):
        return  # no classes at all: that is said later, and the rest is looked at
    numbers = all(isinstance(x, (int, np.integer)) for x in given)
    if numbers:
        strange = [i for i, x in enumerate(given) if not _is_place(x, many)]
        expected = f"0 to {many - 1}"
    elif known:
        strange = [i for i, x in enumerate(given) if str(x) not in known]
        expected = ", ".join(sorted(known)[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
    else:
        strange = list(range(len(given))) if len(set(given)) > many else []
        expected = f"{many} different ones"
    if not strange:
        return
    odd = sorted({given[i] for i in strange}, key=lambda x: (isinstance(x, str), x))
    labels = sorted(set(given), key=lambda x: (isinstance(x, str), x))
    remedy = f"or load the model with num_labels={len(labels)}"
    if numbers:
        low, high = int(labels[0]), int(labels[-1])
        cause = "the model is probably another data set's"
        if low > 0 and high - low < many:
            cause = f"the labels probably count from {low}: subtract {low}"
        elif low < 0:
            cause = "a negative label often says that a row has none: remove these rows"
        remedy = f"or load the model with num_labels={high + 1}" if high >= many else ""
    else:
        cause = "the model is probably another data set's, or the names are spelt otherwise"
    raise DataError(
        f"{len(strange):,} of {len(given):,} rows have labels that are none of the model's {many} "
        f"classes: {', '.join(str(x) for x in odd[:_NAMED])}"
        f"{', ...' if len(odd) > _NAMED else ''} (rows {strange[:5]}, counted from 0); expected "
        f"{expected}. {cause[0].upper()}{cause[1:]}{', ' if remedy else ''}{remedy}"
    )


def _is_place(x: Any, many: int) -> bool:
    return isinstance(x, (int, np.integer)) and 0 <= int(x) < many


def _classes(
    model: nn.Module, tokenizer: Any, texts: Sequence[str]
) -> tuple[int | None, set[str] | None]:
    """Returns how many classes the model has, and their names; None for what it does not tell."""
    inner: Any = unwrapped(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    config = getattr(inner, "config", None)
    if config is not None:
        if not type(inner).__name__.endswith("ForSequenceClassification"):
            return None, None
        many, named = int(config.num_labels), {str(x) for x in (config.id2label or {}).values()}
        if many < 2:
            return None, None
        return many, None if named == {f"LABEL_{i}" for i in range(many)} else named
    batch = tokenizer(list(texts[:2]), padding=True, truncation=True, return_tensors="pt")
    device = next(model.parameters()).device
    with scoring(model) as net:
        out = output_of(net(**{key: value.to(device) for key, value in batch.items()}))
    if isinstance(out, torch.Tensor) and out.ndim == 2 and out.shape[1] > 1:
        return int(out.shape[1]), None
    return None, None
