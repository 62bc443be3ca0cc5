"""TRL's trainers: what they compute otherwise than the Trainer. TRL is imported when needed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from finesieve.errors import ConfigError, ScoreError
from finesieve.gates.features import FeatureFunction, token_features
from finesieve.scoring import heads

PAIRS = ("trl.DPOTrainer", "trl.RewardTrainer")  # n pairs are 2n rows: chosen, then rejected


def loss_of(trainer: Any) -> str:
    """Returns whose `compute_loss` it is: the class's name, with `trl.` before it if it is one of
    TRL's."""
    owner = next(k for k in type(trainer).__mro__ if "compute_loss" in vars(k))
    name = owner.__name__
    return f"trl.{name}" if owner.__module__.split(".")[0] == "trl" else name


def unfit(trainer: Any, losses: bool) -> list[str]:
    """Returns what of the settings of TRL's trainers cannot be served, and what to set instead, a
    sentence each.

    Args:
        trainer: of transformers or TRL.
        losses: whether a function for the loss of an example was given.
    """
    wrong = []
    kind = getattr(trainer.args, "loss_type", "nll")
    if loss_of(trainer) == "trl.SFTTrainer" and not losses and kind != "nll":
        wrong.append(
            f"loss_type={kind!r} is another loss than the one that examples are scored by:"
            " set loss_type='nll', or give attach(..., losses=function)"
        )
    if getattr(trainer, "aux_loss_enabled", False):
        wrong.append(
            "the load-balancing loss of a mixture of experts is of a whole batch: set "
            "router_aux_loss_coef=0.0"
        )
    if hasattr(trainer, "_generate_and_score_completions"):
        wrong.append(
            f"a {type(trainer).__name__} generates what it trains on: what is drawn are "
            "prompts, whose loss nobody knows; leave the sieve out (method 'full')"
        )
    if getattr(trainer, "_is_vision_dataset", False):
        wrong.append("an example's images may have several rows of a batch: text only")
    return wrong


def fused(model: Any, head: heads.Head) -> FusedTokens:
    """Makes the model's fused LM head also give what the sizes need; the task that reads it.

    The log-probabilities stay what they were.
    """
    if not isinstance(head, heads.Tokens):
        raise ConfigError(f"{type(head).__name__} with an SFTTrainer; expected heads.Tokens")
    try:
        from trl.trainer.utils import add_fused_lm_head
    except ImportError:
        import trl

        raise ConfigError(
            f"trl {trl.__version__} computes its loss otherwise than this adapter knows (tested "
            "with 1.16): install trl 1.16, or give attach(..., losses=function)"
        ) from None
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1", "log_sum_sq_probs"))
    return FusedTokens(per=head.per)


class FusedTokens(heads.Tokens):
    """`heads.Tokens` of a causal model whose LM head gives log-probabilities and no logits.

    Outputs with `log_probs`, `log_sum_sq_probs` and `label_mask`, each [n, length - 1].
    """

    given: ClassVar = {"fused_lm_head": True, "use_cache": False}  # to the model, when it is scored
    both = heads.Head.both  # of its own losses and sizes

    def __init__(self, per: float | None = None) -> None:
        super().__init__(shift=True, per=per)

    def _divisor(self, outputs: Any) -> Tensor:
        if getattr(outputs, "label_mask", None) is None:
            raise ScoreError(
                f"the model gave {type(outputs).__name__}; expected TRL's "
                "log-probabilities of a fused LM head"
            )
        count: Tensor = outputs.label_mask.sum(dim=1).clamp(min=1).float()
        return count if self.per is None else torch.full_like(count, self.per)

    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient."""
        count = self._divisor(outputs)
        losses: Tensor = -outputs.log_probs.float().sum(dim=1) / count
        return losses

    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example at its outputs, float32[n]."""
        count = self._divisor(outputs)
        # ||softmax - onehot||^2 = sum of squares - 2 p(target) + 1
        at = outputs.log_probs.detach().float().exp()
        squares = (outputs.log_sum_sq_probs.float().exp() - 2.0 * at + 1.0).clamp(min=0.0)
        sizes: Tensor = (squares * outputs.label_mask).sum(dim=1).sqrt() / count
        return sizes


def fold(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns pairs as n examples: columns [2n, length] become [n, 2, length]; those of n stay."""
    return {
        k: torch.stack(v.chunk(2), dim=1) if isinstance(v, Tensor) and v.ndim == 2 else v
        for k, v in batch.items()
    }


def unfold(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns what `fold` folded as the trainer's own batches are."""
    return {
        k: v.transpose(0, 1).flatten(0, 1) if isinstance(v, Tensor) and v.ndim == 3 else v
        for k, v in batch.items()
    }


def pair_features() -> FeatureFunction:
    """Makes what the predictor sees of a pair: the tokens of both."""
    plain = token_features(labels=None, max_tokens=256)

    def features(batch: Any) -> Any:
        return plain({k: batch[k].flatten(1) for k in ("input_ids", "attention_mask")})

    return features
