"""Moving tensors to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor on the device.

    From the host to a CUDA device it goes through pinned memory, so that the program does not wait
    for what the device still has to do, as a copy from ordinary memory would. The
    tensor is made contiguous first: PyTorch copies others through ordinary memory, even if they
    are pinned.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
