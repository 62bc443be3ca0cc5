"""The last linear layer of a model, found by what it computes, and its inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finesieve.gates.features import IGNORED
from finesieve.scoring.heads import Head

_LAST = 4  # calls of linear layers that are remembered: the logits come from one of the very last


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The layer that makes the logits, and what it was given for n examples.

    Args:
        layer: the module; its weight is float[out, in].
        inputs: float32[n, k, in], on the layer's device: k rows of the layer make one example's
            logits (1 for a class a text, the length for a class a token, the number of choices).
        head: the task, whose loss is the one to fit.
        targets: the head's columns of the batch, [n, ...].
        shape: the logits' shape without its first axis.
    """

    layer: nn.Linear
    inputs: Tensor
    head: Head
    targets: dict[str, Tensor]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> LastLayer:
        """Returns the same of the chosen examples, by their places int64[m]."""
        targets = {key: value[index.to(value.device)] for key, value in self.targets.items()}
        inputs = self.inputs[index.to(self.inputs.device)]
        return LastLayer(self.layer, inputs, self.head, targets, self.shape)

    def losses(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the loss of each example, float32[n], if the layer had these parameters; with
        their gradient.

        Args:
            weight: float32[out, in].
            bias: float32[out], or None.
        """
        logits = F.linear(self.inputs, weight, bias)
        return self.head.losses(logits.reshape(len(self), *self.shape), self.targets)


def joined(parts: Sequence[LastLayer]) -> LastLayer:
    """Puts examples of several batches together, padded to the longest; places that are padding
    have the target -100, which no head counts."""
    first, longest = parts[0], max(part.inputs.shape[1] for part in parts)
    if len(parts) == 1:
        return first

    def padded(part: LastLayer, value: Tensor, fill: float) -> Tensor:
        missing = longest - part.inputs.shape[1]
        if missing == 0 or value.ndim < 2 or value.shape[1] != part.inputs.shape[1]:
            return value
        return F.pad(value, (0, 0) * (value.ndim - 2) + (0, missing), value=fill)

    inputs = torch.cat([padded(part, part.inputs, 0.0) for part in parts])
    targets = {
        key: torch.cat([padded(part, part.targets[key], IGNORED) for part in parts])
        for key in first.targets
    }
    shape = first.shape if len(first.shape) < 2 else (longest, *first.shape[1:])
    return LastLayer(first.layer, inputs, first.head, targets, shape)


@contextmanager
def linear_calls(model: nn.Module) -> Iterator[deque[tuple[nn.Linear, Tensor, Tensor]]]:
    """Yields the last few calls of linear layers made inside, each as layer, input and output."""
    calls: deque[tuple[nn.Linear, Tensor, Tensor]] = deque(maxlen=_LAST)

    def remember(layer: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if isinstance(layer, nn.Linear) and given and isinstance(out, Tensor):
            calls.append((layer, given[0], out))

    hooks = [m.register_forward_hook(remember) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def find_last_layer(
    calls: Sequence[tuple[nn.Linear, Tensor, Tensor]], logits: Any
) -> tuple[nn.Linear, Tensor] | None:
    """Finds the layer whose output is the logits, and its inputs, float[n, k, in].

    A layer is recognised by its values: the logits are its output in another shape (a class a
    text or a token, choices), or its output at one place of each text (decoders that classify).
    Returns None if the logits are no linear layer's output.
    """
    if not isinstance(logits, Tensor) or logits.ndim == 0 or len(logits) == 0:
        return None
    n = len(logits)
    for layer, given, out in reversed(calls):
        if out.numel() == logits.numel() and torch.equal(
            out.reshape(-1).float(), logits.reshape(-1).float()
        ):
            return layer, given.reshape(n, -1, given.shape[-1])
        if out.ndim == 3 and logits.ndim == 2 and (len(out), out.shape[2]) == tuple(logits.shape):
            here = (out.float() == logits.float().unsqueeze(1)).all(dim=2)  # bool[n, length]
            if bool(here.any(dim=1).all()):
                place = here.int().argmax(dim=1)
                rows = torch.arange(n, device=given.device)
                return layer, given[rows, place.to(given.device)].unsqueeze(1)
    return None
