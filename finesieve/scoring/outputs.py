"""What a model put out and what it should have: logits found, targets found, both checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finesieve.errors import BatchError, ScoreError
from finesieve.gates.features import IGNORED

OTHER_NAMES = (  # the remedy where a batch lacks a target
    ": rename what holds the targets, or say its name with head=, e.g. heads.SingleLabel('label'), "
    "and SieveOptions(features=token_features('input_ids', 'label'))"
)


def output_of(outputs: Any, name: str = "logits") -> Any:
    """Finds an output of a model by its name: a dict's entry or an attribute.

    Of a tuple or list it is the first tensor that is no scalar (a loss may stand before it). What
    has no output of that name is returned as it is.
    """
    if isinstance(outputs, Mapping) and name in outputs:
        return outputs[name]
    if isinstance(outputs, (tuple, list)) and not hasattr(outputs, name):
        return next((x for x in outputs if isinstance(x, Tensor) and x.ndim > 0), outputs)
    return getattr(outputs, name, outputs)


def logits_of(outputs: Any, ndim: int, shape: str, name: str = "logits") -> Tensor:
    """Returns the logits, found by their name (see `output_of`).

    Args:
        outputs: what the model gave.
        ndim: how many axes they must have.
        shape: what to expect, in words, for the message.
        name: of the output.

    Raises:
        ScoreError: if they are no tensor with `ndim` axes.
    """
    logits = output_of(outputs, name)
    if not isinstance(logits, Tensor) or logits.ndim != ndim:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if isinstance(logits, Mapping):
            found = f"{found} with {sorted(map(str, logits))}"
        raise ScoreError(
            f"the model gave {found}; expected {name} {shape}: another head, or "
            "scores.PerExample, is for this task (kernels that fuse the loss give no logits)"
        )
    return logits


def target(batch: Any, key: str) -> Tensor:
    """Returns a column of targets, on the batch's own device.

    Raises:
        BatchError: if the batch is no mapping that has it.
    """
    if not isinstance(batch, Mapping) or key not in batch:
        have = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise BatchError(f"no {key!r} in the batch; it has {have}{OTHER_NAMES}")
    return torch.as_tensor(batch[key])


def check_classes(labels: Tensor, classes: int, shape: tuple[int, ...], ignored: bool) -> None:
    """Raises `ScoreError` unless labels are whole numbers of this shape, below the number of
    classes.

    The values of labels on a device are not looked at, for that would wait for it; what is out of
    range is to be given a loss that is no number (see `in_range`).

    Args:
        labels: int[n] or int[n, length].
        classes: how many the model has.
        shape: what they must have.
        ignored: whether they are of tokens, of which those labelled -100 are none.
    """
    if tuple(labels.shape) != shape or labels.is_floating_point():
        each = "a token" if ignored else "an example"
        raise ScoreError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected whole numbers "
            f"{shape}, one class {each}. Real numbers are for heads.Regression, rows of 0 and 1 "
            "for heads.MultiLabel (model.config.problem_type says which, for a Hugging Face model)"
        )
    if labels.device.type != "cpu":
        return
    real = labels[labels != IGNORED] if ignored else labels
    if real.numel() and not 0 <= int(real.min()) <= int(real.max()) < classes:
        raise ScoreError(
            f"labels go from {int(real.min())} to {int(real.max())}, but the model has {classes} "
            "classes: unlabelled examples (-100) cannot be scored, and the head must have as many "
            "outputs as there are classes"
        )


def in_range(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Returns the values float32 with NaN where a label, of the same shape, is none of the classes.

    Labels on the CPU were looked at by `check_classes`: then nothing is changed.
    """
    if labels.device.type == "cpu":  # `check_classes` has looked
        return values
    return values.masked_fill((labels < 0) | (labels >= classes), float("nan"))
