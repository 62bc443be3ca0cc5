"""The task of a model, found from its class and configuration; nothing of the host is imported."""

from __future__ import annotations

from typing import Any

from torch import nn

from finesieve.errors import ConfigError
from finesieve.scoring import heads


def head_of(model: nn.Module, smoothing: float = 0.0) -> heads.Head:
    """Returns the task of a Hugging Face model, by the name of its class.

    Args:
        model: may be compiled, or wrapped by PEFT.
        smoothing: of the labels, in [0, 1).

    Raises:
        ConfigError: if the class tells no task, or the task cannot be smoothed.
    """
    adapted: Any = getattr(model, "_orig_mod", model)
    inner = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
    name, config = type(inner).__name__, getattr(inner, "config", None)
    if name.endswith("ForSequenceClassification"):
        kind = getattr(config, "problem_type", None)
        if kind == "multi_label_classification":
            return _unsmoothed(heads.MultiLabel(), name, smoothing)
        if kind == "regression" or (kind is None and getattr(config, "num_labels", 0) == 1):
            return _unsmoothed(heads.Regression(), name, smoothing)
        return heads.SingleLabel(smoothing=smoothing)
    if name.endswith("ForMultipleChoice"):
        return heads.Choice(smoothing=smoothing)
    if name.endswith("ForQuestionAnswering"):
        return _unsmoothed(heads.Spans(), name, smoothing)
    if name.endswith("ForTokenClassification"):
        return heads.Tokens(smoothing=smoothing)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return heads.Tokens(shift=True, smoothing=smoothing)
    if getattr(config, "is_encoder_decoder", False):
        return heads.Tokens(smoothing=smoothing)
    raise ConfigError(
        f"{name} tells no task: give head=..., one of finesieve.heads; or a function (model, "
        "batch) -> loss per example: attach(trainer, losses=function), or "
        "Sieve(model, scorer=finesieve.scores.PerExample(model, function))"
    )


def default_head(model: nn.Module) -> heads.Head:
    """Returns the task of any model: a Hugging Face model's own; one label per example for a module
    that is not theirs, which its first two examples prove or disprove.

    Raises:
        ConfigError: for a Hugging Face model whose class tells no task.
    """
    try:
        return head_of(model)
    except ConfigError:
        if hasattr(model, "config") and hasattr(model, "save_pretrained"):
            raise
        return heads.SingleLabel()


def _unsmoothed(head: heads.Head, name: str, smoothing: float) -> heads.Head:
    if smoothing:
        raise ConfigError(
            f"label_smoothing_factor={smoothing} with {name}: set it to 0, or give "
            "attach(trainer, losses=...)"
        )
    return head


def decoder_needs_targets(model: Any) -> bool:
    """Returns whether the model makes its decoder's input of the labels, so must be given them."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
