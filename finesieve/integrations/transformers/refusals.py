"""What of a Trainer's settings a sieve cannot serve rightly, and what to set instead."""

from __future__ import annotations

from typing import Any

from torch import nn

from finesieve.integrations import common as hosts
from finesieve.integrations.transformers import trl as hf_trl
from finesieve.scoring.frozen import FrozenPrefix

_FUNCTION = "attach(..., losses=function), a function (model, batch) -> loss per example"


def unfit(trainer: Any, own_loss: str, losses: bool, head: bool = False) -> list[str]:
    """Returns what of a trainer's settings cannot be served, a sentence each, with the setting to
    change.

    Args:
        trainer: of transformers.
        own_loss: whose `compute_loss` it is (`trl.loss_of`).
        losses: whether a function for the loss of an example was given.
        head: whether a head was, whose loss is what is trained on then.
    """
    wrong = [*_sharded(trainer), *_lengths(trainer.args)]
    if "compute_loss" in vars(trainer):
        own_loss = f"this {type(trainer).__name__} object"
    if not losses:
        wrong += _loss(trainer, own_loss, head)
    if getattr(trainer.args, "enable_jit_checkpoint", False):
        wrong.append(
            "enable_jit_checkpoint=True saves without telling callbacks, so without the "
            "sieve's state: set it to False and save by steps (save_steps)"
        )
    return [*wrong, *hf_trl.unfit(trainer, losses), *_joined(trainer)]


def _sharded(trainer: Any) -> list[str]:
    sharded = ""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        sharded = (
            "FSDP and DeepSpeed shard the model, which cannot be scored by one rank alone: "
            "use plain data-parallel training (torchrun)"
        )
    return hosts.unserved(
        sharded=sharded,
        several_gpus=trainer.args.n_gpu > 1,
        mesh=getattr(trainer.accelerator, "torch_device_mesh", None) is not None,
    )


def by_steps(strategy: Any) -> bool:
    """Returns whether a saving or evaluation strategy counts steps."""
    return str(getattr(strategy, "value", strategy)) == "steps"


def _lengths(args: Any) -> list[str]:
    if args.max_steps > 0:
        return []
    wrong = []
    if args.num_train_epochs != int(args.num_train_epochs):
        wrong.append(f"num_train_epochs={args.num_train_epochs}: a whole number, or max_steps")
    for name, strategy in (
        ("logging_steps", args.logging_strategy),
        ("eval_steps", args.eval_strategy),
        ("save_steps", args.save_strategy),
    ):
        value = getattr(args, name)
        if by_steps(strategy) and value is not None and 0 < value < 1:
            wrong.append(
                f"{name}={value} is a share of a number of steps that nobody knows "
                "beforehand: give a number of steps, or max_steps"
            )
    return wrong


def _loss(trainer: Any, own_loss: str, head: bool) -> list[str]:
    wrong = []
    if trainer.compute_loss_func is not None and not (head and own_loss == "Trainer"):
        other = ", or attach(..., head=) with the task as you weigh or smooth it"
        wrong.append(
            f"compute_loss_func gives the mean of a batch: give {_FUNCTION}"
            f"{other if own_loss == 'Trainer' else ''}"
        )
    config = getattr(trainer.model, "config", None)
    if getattr(config, "output_router_logits", False) and getattr(
        config, "router_aux_loss_coef", 0.0
    ):
        wrong.append(
            "a mixture of experts' load-balancing loss is of a whole batch: set "
            "router_aux_loss_coef=0.0 in the model's config"
        )
    if (
        type(trainer.model).__name__.endswith("ForQuestionAnswering")
        and getattr(getattr(trainer, "processing_class", None), "padding_side", "right") == "left"
    ):
        wrong.append(
            "positions of answers count places from the left, where padding_side='left' "
            "puts the padding: set tokenizer.padding_side='right'"
        )
    if own_loss not in ("Trainer", "trl.SFTTrainer"):
        loss = getattr(trainer, "loss", None)
        named = f" ({type(loss).__name__})" if isinstance(loss, nn.Module) else ""
        wrong.append(
            f"{own_loss}{named} has a compute_loss of its own: give {_FUNCTION}; "
            "impossible where an example's loss depends on the others of its batch "
            "(in-batch negatives, ranking)"
        )
    if getattr(trainer.args, "use_liger_kernel", False):
        wrong.append(
            "use_liger_kernel=True computes the loss without the logits that the size of "
            f"a gradient follows from: set it to False, or give {_FUNCTION}"
        )
    return wrong


def unshared(trainer: Any, prefix: FrozenPrefix, losses: bool) -> list[str]:
    """Returns what keeps frozen layers from being run once an example, a sentence each as in
    `unfit`.

    Args:
        trainer: of transformers.
        prefix: the frozen layers.
        losses: whether a function for the loss of an example was given.
    """
    wrong = []
    if trainer.model_init is not None or not prefix.belongs_to(trainer.model):
        wrong.append(
            "prefix= is of layers that the trainer's model does not have: make it of "
            "trainer.model (with model_init, which makes a new one, leave it out)"
        )
    if losses:
        wrong.append("prefix= goes with a head: leave out losses=, or prefix=")
    if trainer.args.torch_compile:
        wrong.append(
            "torch_compile=True: layers of a compiled model cannot be left out: leave out "
            "prefix=, or set it to False"
        )
    if trainer.args.gradient_checkpointing:
        wrong.append(
            "gradient_checkpointing=True makes the embeddings' output want a gradient, so "
            "frozen layers are run for it: leave out prefix=, or set it to False"
        )
    return wrong


def _joined(trainer: Any) -> list[str]:
    args, collator = trainer.args, trainer.data_collator
    if (
        getattr(args, "packing", False)
        or getattr(args, "padding_free", False)
        or getattr(collator, "padding_free", False)
        or type(collator).__name__ == "DataCollatorWithFlattening"
    ):
        return [
            "packing and padding_free join examples into one row, which can only be kept or "
            "dropped together: set both to False, and use a collator that pads"
        ]
    return []
