"""Features of texts from a frozen model: one forward pass a text, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from finesieve.errors import ConfigError
from finesieve.insight.packed import PackedTokens
from finesieve.insight.visits import Visits
from finesieve.scoring.last_layer import find_last_layer, linear_calls
from finesieve.scoring.mode import unwrapped
from finesieve.scoring.precision import fast_bf16

_TOGETHER = 1024  # texts that are only counted
_NOTHING = "."  # stands for an empty text, of which some tokenizers make no token at all
POOLS = ("auto", "mean", "head")
_BATCH, _ON_GPU = 64, 256  # texts a forward pass, on a CPU and on an accelerator


@dataclass(frozen=True, slots=True)
class Embedded:
    """Features of texts from a frozen model.

    Args:
        features: float32[n, d].
        tokens: int64[n], as the model saw them, so cut at `limit`.
        cut: bool[n], texts that are longer than that.
        limit: tokens.
        ids: the tokens themselves, where every text was run.
    """

    features: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]
    limit: int
    ids: PackedTokens | None = None


def fast(device: torch.device) -> AbstractContextManager[Any]:
    """Returns the context in which a forward is fastest: bf16 where the processor or the GPU has
    instructions for it. The features' cosines with those of float32 are above 0.999."""
    return torch.autocast(device.type, torch.bfloat16) if fast_bf16(device) else nullcontext()


@torch.inference_mode()
def embed(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int = 128,
    pool: str = "auto",
    visits: Visits | None = None,
    leave_out: npt.NDArray[np.int64] | None = None,
    tell: Callable[[float], None] = lambda share: None,
) -> Embedded:
    """Runs every text through the model once, in eval mode, and returns its features.

    In bf16 where that is fast (`fast`); a model's own precision is the best elsewhere.

    Args:
        model: a Hugging Face model, or a module that is called as `model(**batch)`.
        tokenizer: its tokenizer.
        texts, pairs: one text an example, or two.
        max_length: tokens; longer texts are cut.
        pool: "mean" takes the mean of the last hidden states over a text's tokens; "head" what the
            last linear layer is given; "auto" the latter if that layer came with the checkpoint.
        visits: has features of some texts already, which are not run again.
        leave_out: int64[m], with `visits`, places of texts that get no features: zeros.
        tell: is told the share that is done.

    Raises:
        ConfigError: for a pool that there is not, or that this model does not have.
    """
    if pool not in POOLS:
        raise ConfigError(f"pool is {pool!r}; expected one of {', '.join(POOLS)}")
    device = next(model.parameters()).device
    size = np.asarray([len(t) for t in texts])
    if pairs is not None:
        size = size + np.asarray([len(p) for p in pairs])
    order = np.argsort(size, kind="stable")
    features: npt.NDArray[np.float32] | None = None
    left_out = np.zeros(len(texts), dtype=np.bool_)
    if leave_out is not None:
        left_out[leave_out] = True
    tokens = np.zeros(len(texts), dtype=np.int64)
    if visits is not None and visits.features is not None:
        features, there = visits.features, np.flatnonzero(visits.met | left_out)
        if visits.tokens is not None:
            tokens[there] = [len(visits.tokens[i]) for i in there.tolist()]
            there = there[:0]
        for start in range(0, len(there), _TOGETHER):
            some = there[start : start + _TOGETHER].tolist()
            read = tokenizer(
                [texts[i] or _NOTHING for i in some],
                None if pairs is None else [pairs[i] for i in some],
                truncation=True,
                max_length=max_length,
            )
            tokens[some] = [len(ids) for ids in read["input_ids"]]
        order = order[~(visits.met | left_out)[order]]
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = []
    together = _BATCH if device.type == "cpu" else _ON_GPU
    training = model.training
    model.eval()
    try:
        for start in range(0, len(order), together):
            index = order[start : start + together]
            batch = tokenizer(
                [texts[i] or _NOTHING for i in index.tolist()],
                None if pairs is None else [pairs[i] for i in index.tolist()],
                truncation=True,
                max_length=max_length,
                padding=True,
                return_tensors="pt",
            )
            tokens[index] = batch["attention_mask"].sum(dim=1).numpy()
            if visits is None and "input_ids" in batch:
                there = batch["attention_mask"].bool()
                parts.append((index, batch["input_ids"][there].to(torch.int32).numpy()))
            given = {key: value.to(device) for key, value in batch.items()}
            if pool == "auto":
                pool = _pool_of(model, given)
            with fast(device):
                found = (_pooled if pool == "mean" else _before_head)(model, given)
            if features is None:
                features = np.empty((len(texts), found.shape[1]), dtype=np.float32)
            features[index] = found.float().cpu().numpy()
            tell((start + len(index)) / len(order))
    finally:
        model.train(training)
    cut = tokens >= max_length
    for i in np.flatnonzero(cut).tolist():  # a text may fill the limit exactly
        pair = None if pairs is None else pairs[i]
        cut[i] = len(tokenizer(texts[i], pair, verbose=False)["input_ids"]) > max_length
    assert features is not None
    ids = PackedTokens(tokens) if parts else None
    for index, some in parts:
        assert ids is not None
        ids.put(index, some)
    return Embedded(features, tokens, cut, max_length, ids)


def _body(model: nn.Module) -> nn.Module:
    """Returns the model without its task's head, as Hugging Face's models have it."""
    inner = unwrapped(model)
    return getattr(inner, "base_model", inner)


def _pooled(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    out = _body(model)(**batch)
    hidden = getattr(out, "last_hidden_state", None)
    if hidden is None:
        raise ConfigError(
            f"{type(_body(model)).__name__} returns no last_hidden_state to take the mean of; "
            "use pool='head'"
        )
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return pooled


def _last_layer(model: nn.Module, batch: dict[str, Tensor]) -> tuple[nn.Linear, Tensor] | None:
    with linear_calls(model) as calls:
        out = model(**batch)
    return find_last_layer(calls, getattr(out, "logits", out))


def _before_head(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    found = _last_layer(model, batch)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} has no last linear layer that makes one row of logits an "
            "example; use pool='mean'"
        )
    return found[1].mean(dim=1)


def _pool_of(model: nn.Module, batch: dict[str, Tensor]) -> str:
    if not hasattr(_body(model), "config"):
        return "head"
    found = _last_layer(model, batch)
    if found is None:
        return "mean"
    return "head" if getattr(found[0].weight, "_is_hf_initialized", False) else "mean"
