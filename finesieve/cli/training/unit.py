"""A regression's model that speaks in another unit: its last layer takes the scale in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from finesieve.scoring.last_layer import find_last_layer, linear_calls


def rescale(model: Any, factor: float, shift: float, probe: Mapping[str, torch.Tensor]) -> bool:
    """Changes the last linear layer so that the model gives factor * output + shift.

    Args:
        model: a sequence classifier with one output; it is put into eval mode.
        probe: a batch without labels, for a forward pass that shows which layer is the last.

    Returns:
        Whether it could be done: not where the output is no linear layer's, or the layer has no
            bias to take the shift.
    """
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        with linear_calls(model) as calls:
            logits = model(**{k: v.to(device) for k, v in probe.items()}).logits
        found = find_last_layer(calls, logits)
        if found is None or found[0].bias is None:
            return False
        layer = found[0]
        layer.weight.mul_(factor)
        layer.bias.mul_(factor).add_(shift)
    return True
