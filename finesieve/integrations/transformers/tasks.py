"""Which task a Hugging Face model has: found from its class and configuration, nothing imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from finesieve.errors import ConfigError
from finesieve.scoring import heads


def head_of(model: nn.Module, smoothing: float = 0.0) -> heads.Head:
    """The task of a Hugging Face model, by its class; `ConfigError` if that tells nothing."""
    adapted: Any = model
    inner = adapted.get_base_model() if hasattr(model, "get_base_model") else model
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
        f"{name} tells no task: give attach(trainer, head=...), one of finesieve.heads, or "
        "attach(trainer, losses=function), a function (model, batch) -> loss per example"
    )


def _unsmoothed(head: heads.Head, name: str, smoothing: float) -> heads.Head:
    if smoothing:
        raise ConfigError(f"label_smoothing_factor={smoothing} with {name}: set it to 0, or give "
                          "attach(trainer, losses=...)")
    return head


def decoder_needs_targets(model: Any) -> bool:
    """Whether the model makes its decoder's input of the labels, so must be given them."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


class TokensPerExample:
    """Measures how many target tokens an example has on average, and sets the head's `per`.

    A trainer divides the sum of a batch's token losses by its number of target tokens. What one
    example adds to that is, over the whole data, its own sum divided by the average number: with
    this number as `per`, the mean over examples is the trainer's objective. Taken over all
    examples drawn while the gates are open, `least` at the least; then it stays as it is, so that
    the sizes of examples can be compared.

    all_labels: the trainer divides by all labels of a text, also the first, which is no target.
    """

    def __init__(
        self, head: heads.Tokens, all_labels: bool = False, least: int = 1024
    ) -> None:
        self.head, self._least = head, least
        self._count = (heads.Tokens() if all_labels else head).count
        self._tokens, self._examples = 0, 0

    def see(self, batch: Any, is_open: bool) -> None:
        """A batch as drawn, before anything is left out of it."""
        labels = batch.get(self.head.targets[0]) if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return  # the head says what is wrong with it
        if is_open or self._examples < self._least:
            self._tokens += int(self._count(labels).sum())
            self._examples += len(labels)
            self.head.per = max(1, self._tokens) / max(1, self._examples)

    def state_dict(self) -> dict[str, int]:
        return {"tokens": self._tokens, "examples": self._examples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._tokens, self._examples = state["tokens"], state["examples"]
        if self._examples:
            self.head.per = max(1, self._tokens) / self._examples
