"""The weight of each survivor, and the weighted mean of the losses that it is for.

An example that was kept with a small probability weighs more, so that the weighted mean over a
batch estimates, without bias, the mean over the pool that the batch came from.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.device import to_device
from finesieve.gates.protocol import FloatArray, IntArray


def after_opening(q: FloatArray | None, passed: IntArray) -> FloatArray | None:
    """Returns float32[m], the weights of the m examples that an opening gate let pass.

    Args:
        q: float32[n], the probability to pass of each example of the pool; None where all do.
        passed: int64[m], places in the pool.

    None stands for weights of 1: where all chances are alike they are 1 to the bit.
    """
    if q is None or not q.min() < q.max():
        return None
    weights: FloatArray = (q.mean() / q[passed]).astype(np.float32)
    return weights


def after_gates(
    q: FloatArray | None, p: FloatArray | None, passed: IntArray, kept: IntArray, drawn: float
) -> FloatArray:
    """Returns float32[k], the weights of the k survivors of closed gates; of mean about 1, so that
    every batch estimates the mean gradient of its pool.

    Args:
        q: float32[drawn], the probability to pass the forward gate; None where all pass it.
        p: float32[m], the probability to be kept once scored; None where the gate gives none.
        passed: int64[m], places in the pool of those that were scored.
        kept: int64[k], places in `passed`.
        drawn: examples in the pool that count.
    """
    weights = np.ones(len(kept), dtype=np.float64)
    # Where all are alike they weigh 1, to the bit.
    if q is not None and len(kept) and not (p is None and q.min() == q.max()):
        weights *= (q.mean() if p is None else 1.0) / q[passed][kept]
    if p is not None and len(kept):
        weights *= p.sum() / (drawn if q is not None else len(passed)) / p[kept]
    return weights.astype(np.float32)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Returns the mean of weight times loss, a scalar; a loss that is NaN or infinite adds nothing.

    Args:
        losses: float[n], with gradient.
        weights: float[n], of mean about 1.
    """
    ones = False
    if not losses.is_cpu:  # weights of 1 need not be copied to the device
        ones = weights.is_cpu and bool((weights == 1.0).all())
    if not ones and (weights.dtype != losses.dtype or weights.device != losses.device):
        weights = to_device(weights, losses.device).to(losses.dtype)
    # Where nothing has to be waited for: most often all are finite, which their mean tells.
    if losses.is_cpu:
        mean = (losses * weights).mean()
        if math.isfinite(mean.item()):
            return mean
    # Few operations: a small model's step on a GPU takes as long as it takes to launch them.
    clean = torch.where(losses.detach().abs() < math.inf, losses, 0.0)
    return (clean if ones else clean * weights).mean()
