"""A model while it is scored: without its wrapper, in eval mode, and left as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

_SHARDED = "FullyShardedDataParallel", "DTensor"


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the module without its DistributedDataParallel, also where that was compiled."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), wrappers):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def is_sharded(model: nn.Module) -> bool:
    """Returns whether ranks share the parameters out among themselves, so that none of them can run
    the model alone: FSDP (both versions), tensor parallelism, and stage 3 of DeepSpeed."""
    # Where PyTorch's modules were not imported, nothing was made of them; importing takes seconds.
    parts = sys.modules.get("torch.distributed.fsdp"), sys.modules.get("torch.distributed.tensor")
    wrapper, kind = (getattr(part, name, ()) for part, name in zip(parts, _SHARDED, strict=True))
    return any(isinstance(module, wrapper) for module in model.modules()) or any(
        isinstance(p, kind) or hasattr(p, "ds_id") for p in model.parameters()
    )


@contextmanager
def scoring(
    model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]] | None = None
) -> Iterator[nn.Module]:
    """Puts a model into eval mode, without gradient and in training's autocast; yields it without
    its wrapper.

    There is no inference mode: a model may keep tensors that this forward made (tables of
    positions, say), and training could not use them.

    On leaving, each submodule's own mode is restored (some may have been in eval mode on purpose)
    and so are the random states, so that a run with scoring draws the same dropout masks as one
    without. The wrapper (DistributedDataParallel) is avoided because its forward takes part in
    collectives, which hang when ranks score different numbers of batches.

    On a CUDA device attention leaves out cuDNN's kernels: they are prepared anew for every shape of
    a batch, which took 50 ms on an H100, five times what the forward itself did, and nearly every
    scoring batch has a shape of its own.

    `use_cache` of the model's configuration is switched off meanwhile. A decoder would keep the
    keys and values of all its layers, to generate further words, and nothing is generated here.
    Scoring batches are large because only one layer's results are in memory at a time.

    Args:
        model: may be wrapped.
        autocast: gives the context that training runs in.

    Yields:
        The module without its wrapper.
    """
    inner = unwrapped(model)
    training = [m for m in inner.modules() if m.training]
    configs: list[Any] = [m.__dict__.get("config") for m in inner.modules()]
    caching = [c for c in configs if getattr(c, "use_cache", None) is True]
    cpu = torch.get_rng_state()
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    prepared = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    for module in training:
        module.training = False
    for config in caching:
        config.use_cache = False
    try:
        torch.backends.cuda.enable_cudnn_sdp(False)  # of no effect on other devices
        with torch.no_grad(), (autocast or nullcontext)():
            yield inner
    finally:
        # Within an outer autocast, torch before 2.10 keeps the weights that were cast without a
        # gradient, and the next training forward would be given them.
        torch.clear_autocast_cache()
        torch.backends.cuda.enable_cudnn_sdp(prepared)
        for module in training:
            module.training = True
        for config in caching:
            config.use_cache = True
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)
