"""The scoring pass: loss and size of the gradient of every example, without a gradient.

The size is the norm of the loss's gradient with respect to the last layer's output. For softmax
cross-entropy it is ||softmax(logits) - onehot(label)||_2, free in the scoring pass, in
[0, sqrt(2)] (Katharopoulos & Fleuret, "Not all samples are created equal", ICML 2018, show that
it bounds the full gradient's norm up to a factor that hardly depends on the example).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finesieve.errors import BatchError, ScoreError
from finesieve.gates import FloatArray


@dataclass(frozen=True, slots=True)
class Scores:
    """loss: float32[n]. size: float32[n], non-negative. Both on the CPU."""

    loss: FloatArray
    size: FloatArray


def check_losses(losses: Any, n: int, where: str) -> Tensor:
    """`losses` if it is one value per example, else a `ScoreError` that names the mend."""
    if not isinstance(losses, Tensor):
        raise ScoreError(f"{where} gave a {type(losses).__name__}; expected a tensor of {n} losses")
    if losses.shape == (n,):
        return losses
    cause = ""
    if losses.numel() == 1 and n != 1:
        cause = ": it is the mean over the batch; use reduction='none'"
    elif losses.ndim > 1 and losses.shape[0] == n:
        cause = ": average over all dimensions but the first"
    raise ScoreError(
        f"{where} gave losses of shape {tuple(losses.shape)}; expected ({n},), one value per "
        f"example{cause}"
    )


class Scorer(ABC):
    """Passed to the sieve; the only part that knows the model."""

    @abstractmethod
    def __call__(self, batch: Any) -> Scores:
        """Score a batch of the loader's form. Leaves no trace: mode and random state restored."""

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """The size that goes with a training loss, where only the loss is known (stage 1)."""
        return np.maximum(loss, 0.0)


@contextmanager
def scoring(
    model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]] | None = None
) -> Iterator[nn.Module]:
    """Eval mode, inference mode, training's autocast; yields the module without its wrapper.

    On leaving, each submodule's own mode is restored (some may have been in eval mode on purpose)
    and so are the random states, so that a run with scoring draws the same dropout masks as one
    without. The wrapper (DistributedDataParallel) is avoided because its forward takes part in
    collectives, which hang when ranks score different numbers of batches.
    """
    wrapped = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    inner = model.module if isinstance(model, wrapped) else model
    training = [m for m in inner.modules() if m.training]
    cpu = torch.get_rng_state()
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    for module in training:
        module.training = False
    try:
        with torch.inference_mode(), (autocast or nullcontext)():
            yield inner
    finally:
        for module in training:
            module.training = True
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)


def softmax_sizes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy loss float32[n] and ||softmax - onehot||_2 float32[n].

    logits: float[n, classes]. labels: int64[n].
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    at = labels.unsqueeze(1)
    loss = -log_p.gather(1, at).squeeze(1)
    error = log_p.exp()
    error.scatter_add_(1, at, torch.full_like(at, -1, dtype=error.dtype))
    return loss, error.norm(dim=1)


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """`ScoreError` unless labels are int[n] below the number of classes, logits float[n, c]."""
    n, classes = logits.shape
    if labels.shape != (n,) or labels.is_floating_point():
        raise ScoreError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected whole numbers "
            f"({n},), one class an example: use scores.PerExample for another task"
        )
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ScoreError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the model has "
            f"{classes} classes: unlabelled examples (-100) cannot be scored, and the head must "
            "have as many outputs as there are classes"
        )


class Classification(Scorer):
    """Single-label classification with softmax cross-entropy.

    Scoring runs under inference mode: a model must not keep tensors that one forward made for the
    backward pass of a later one.

    model: called as `model(**batch without labels)` on dict batches and `model(*batch[:-1])` on
        tuples; returns logits [n, classes] or an object with `.logits`.
    labels: the key of the labels int64[n] in a dict batch (the last element of a tuple).
    autocast: a function giving the context that training runs in, e.g.
        `lambda: torch.autocast("cuda", torch.bfloat16)`.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: str = "labels",
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self._model, self._labels, self._autocast = model, labels, autocast

    def __call__(self, batch: Any) -> Scores:
        with scoring(self._model, self._autocast) as model:
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            if isinstance(batch, Mapping):
                if self._labels not in batch:
                    raise BatchError(f"no {self._labels!r} in the batch; it has {sorted(batch)}")
                given = {
                    k: v.to(device)
                    for k, v in batch.items()
                    if k != self._labels and isinstance(v, Tensor)
                }
                labels = batch[self._labels]
                out = model(**given)
            else:
                *rest, labels = batch
                out = model(*(x.to(device) for x in rest))
            logits = getattr(out, "logits", out)
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                raise ScoreError(
                    f"the model gave {getattr(logits, 'shape', type(logits).__name__)}; expected "
                    "logits [n, classes]: use scores.PerExample for another task"
                )
            labels = torch.as_tensor(labels).to(device)
            check_labels(labels, logits)
            loss, size = softmax_sizes(logits, labels)
        return Scores(loss.cpu().numpy(), size.cpu().numpy())

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """sqrt(2) * (1 - exp(-loss)): exact for two classes, an upper bound for more."""
        missing = 1.0 - np.exp(-np.maximum(loss, 0.0))
        return np.asarray(np.sqrt(2.0) * missing, dtype=np.float32)


class PerExample(Scorer):
    """Any task: one function, batch -> loss per example, float[n].

    function: is called as `function(model, batch)` with the module unwrapped and in eval mode.
    size: float[n] -> float[n], the size of the gradient that goes with a loss; the loss itself by
        default. For a squared error, e.g., `lambda loss: 2 * loss ** 0.5`.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[[nn.Module, Any], Tensor],
        size: Callable[[FloatArray], FloatArray] | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self._model, self._function, self._size = model, function, size
        self._autocast = autocast

    def __call__(self, batch: Any) -> Scores:
        if isinstance(batch, Mapping):
            n = len(next(iter(batch.values())))
        else:
            n = len(batch) if isinstance(batch, Tensor) else len(batch[0])
        with scoring(self._model, self._autocast) as model:
            losses = check_losses(self._function(model, batch), n, "the loss function")
        loss = losses.float().cpu().numpy()
        return Scores(loss, self.size_of_loss(loss))

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        if self._size is None:
            return np.maximum(loss, 0.0).astype(np.float32)
        return np.asarray(self._size(loss), dtype=np.float32)
