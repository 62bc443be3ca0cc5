"""The targets of a regression: standardised for training, the labels' own unit for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.scoring.last_layer import find_last_layer, linear_calls


@dataclass(frozen=True)
class Scale:
    """Standardises labels, so that the loss of naming the mean is about 1 whatever their unit.

    Args:
        mean, std: of the labels of the training data, before `--limit`.
    """

    mean: float
    std: float

    @classmethod
    def of(cls, labels: Sequence[Any]) -> Scale:
        """Returns the scale of these labels, which are not all the same."""
        values = np.asarray(labels, dtype=np.float64)
        return cls(float(values.mean()), float(values.std()))

    def targets(self, labels: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Returns (label - mean) / std, float32[n]."""
        values = (np.asarray(labels, dtype=np.float64) - self.mean) / self.std
        return values.astype(np.float32)

    def labels(self, targets: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Returns what these standardised values are in the labels' own unit, float64[n]."""
        return np.asarray(targets, dtype=np.float64) * self.std + self.mean

    def as_dict(self) -> dict[str, float]:
        """Returns plain numbers."""
        return {"mean": self.mean, "std": self.std}


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
