"""A trainer's task: its head, its scoring pass, and how many target tokens an example has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finesieve.errors import BatchError, ConfigError
from finesieve.gates.features import IGNORED
from finesieve.integrations.transformers import trl as hf_trl
from finesieve.scoring import heads
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.protocol import Scorer
from finesieve.scoring.scorers import PerExample, SizeFunction, Task
from finesieve.scoring.task_of import decoder_needs_targets, head_of

__all__ = ["TokensPerExample", "decoder_needs_targets", "find_head", "head_of", "scorer_of"]

LossFunction = Callable[[nn.Module, Any], Tensor]
_WINDOW, _MOVED = 256, 1.25  # ratio of averages of so many texts that is more than chance


def find_head(trainer: Any, given: heads.Head | None, sft: bool) -> heads.Head:
    """Returns the task that a trainer's examples are scored by.

    Args:
        trainer: whose model tells the task.
        given: by the user, or None.
        sft: whether it is TRL's `SFTTrainer`.

    Raises:
        ConfigError: if nothing tells the task, or it is not what the trainer trains on.
    """
    smoothing = trainer.args.label_smoothing_factor
    head = head_of(trainer.model, smoothing) if given is None else given
    own = getattr(head, "smoothing", 0.0)
    if own != smoothing and (smoothing or sft):
        raise ConfigError(
            f"the sieve cannot be attached: label_smoothing_factor={smoothing}, and head= is a "
            f"{type(head).__name__} that smooths by {own}: give both the same"
        )
    # Label smoothing needs the logits, so the trainer itself does without the fused head then.
    if sft and not smoothing:
        return hf_trl.fused(trainer.model, head)
    peft = getattr(trainer.model, "active_peft_config", None)
    if isinstance(head, heads.Tokens) and getattr(peft, "is_prompt_learning", False):
        raise ConfigError(
            f"the sieve cannot be attached: {type(peft).__name__} puts tokens of its own "
            "before each text, so logits and labels are not of one length: use LoRA, or give "
            "attach(..., losses=function)"
        )
    return head


def scorer_of(
    model: Any,
    head: heads.Head | None,
    losses: LossFunction | None,
    size: SizeFunction | None,
    prefix: FrozenPrefix | None,
    pairs: bool,
) -> Scorer | None:
    """Returns the scoring pass of a trainer's model; None where nothing is scored.

    Args:
        model: of the trainer.
        head, losses, size, prefix: as in `attach`.
        pairs: whether an example is a pair of texts, folded (`trl.fold`).
    """
    if losses is not None:
        given = losses
        if pairs:
            return PerExample(model, lambda net, batch: given(net, hf_trl.unfold(batch)), size)
        return PerExample(model, given, size)
    if head is None:
        return None
    if isinstance(head, hf_trl.FusedTokens):
        return Task(model, head, keep_targets=True, prefix=prefix, more=head.given)
    return Task(model, head, keep_targets=decoder_needs_targets(model), prefix=prefix)


class TokensPerExample:
    """Measures how many target tokens an example has on average, and sets the head's `per`.

    A trainer divides the sum of a batch's token losses by its number of target tokens. What one
    example adds to that is, over the whole data, its own sum divided by the average number: with
    this number as `per`, the mean over examples is the trainer's objective. Taken over all
    examples drawn while the gates are open, `least` at the least; then it stays as it is, so that
    the sizes of examples can be compared. Where texts grow longer or shorter in the course of the
    data (a curriculum), so that the latest 256 examples have another average by a quarter or
    more, it becomes theirs: the trainer's mean is over the tokens of the batch at hand.

    Args:
        head: its `per` is set.
        all_labels: whether the trainer divides by all labels of a text, also by the first, which is
            no target.
        aligned: whether the labels are about the text's own tokens, and not about another text's (a
            decoder's).
        least: examples that are counted at least.
    """

    def __init__(
        self,
        head: heads.Tokens,
        all_labels: bool = False,
        aligned: bool = False,
        least: int = 1024,
    ) -> None:
        self.head, self._aligned, self._least = head, aligned, least
        self._count = (heads.Tokens() if all_labels else head).count
        self._tokens, self._examples = 0, 0
        self._latest = [0, 0]  # tokens and examples, since the average was looked at

    def see(self, batch: Any, is_open: bool) -> None:
        """Counts the target tokens of a batch as drawn, before anything is left out of it.

        Raises:
            BatchError: for targets where `attention_mask` is 0: they would be cut off as padding.
        """
        labels = batch.get(self.head.targets[0]) if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return  # the head says what is wrong with it
        mask = batch.get("attention_mask")
        outside = torch.zeros((), dtype=torch.long, device=labels.device)
        if self._aligned and isinstance(mask, Tensor) and mask.shape == labels.shape:
            outside = self.head.count(labels.masked_fill(mask != 0, IGNORED)).sum()
        tokens, beyond = torch.stack([self._count(labels).sum(), outside]).tolist()
        if beyond:
            raise BatchError(
                f"{beyond} targets of a batch stand where attention_mask is 0, which is taken for "
                "padding and cut off: set the labels of padding to -100, and let the mask cover "
                "all targets (a language model does not see later tokens anyway)"
            )
        if is_open or self._examples < self._least:
            self._tokens, self._examples = self._tokens + tokens, self._examples + len(labels)
            self._set()
            return
        self._latest = [self._latest[0] + tokens, self._latest[1] + len(labels)]
        if self._latest[1] >= _WINDOW:
            ratio = max(1, self._latest[0]) / self._latest[1] / (self.head.per or 1.0)
            if not 1.0 / _MOVED <= ratio <= _MOVED:
                self._tokens, self._examples = self._latest
                self._set()
            self._latest = [0, 0]

    def _set(self) -> None:
        if self._examples:
            self.head.per = max(1, self._tokens) / self._examples

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"tokens": self._tokens, "examples": self._examples, "latest": list(self._latest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._tokens, self._examples = state["tokens"], state["examples"]
        self._latest = list(state.get("latest", (0, 0)))
        self._set()
