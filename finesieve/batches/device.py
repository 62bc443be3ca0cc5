"""Moving tensors to a device without waiting for it; what the processor computes fast."""

from __future__ import annotations

import platform

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor on the device.

    From the host to a CUDA device it goes through pinned memory, so that the program does not wait
    for what the device still has to do, as a copy from ordinary memory would.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def has_bf16() -> bool:
    """Returns whether this processor has instructions for bf16, so that it is faster than fp32.

    oneDNN says yes on every x86 processor with AVX-512, and emulates bf16 on those that lack
    AVX512-BF16 and AMX, more slowly than it computes fp32.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    asked = [ask for name in names if (ask := getattr(torch.cpu, name, None)) is not None]
    if platform.machine().lower() not in ("x86_64", "amd64") or not asked:
        return True
    return any(ask() for ask in asked)
