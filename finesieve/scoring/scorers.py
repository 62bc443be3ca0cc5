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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from finesieve.batches.device import to_device
from finesieve.errors import BatchError, ScoreError
from finesieve.gates.features import FeatureFunction, token_features
from finesieve.gates.protocol import FloatArray, IntArray
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.heads import Head, SingleLabel, Tokens
from finesieve.scoring.last_layer import LastLayer, find_last_layer, linear_calls
from finesieve.scoring.outputs import output_of

SizeFunction = Callable[[FloatArray], FloatArray]
# A scoring forward holds about one layer at a time where training holds all of them, so it may have
# more tokens than a training batch: this many times as many, or as many times as there are layers.
# Where every token has this many outputs, the outputs are what fills the memory, in both.
ROOM, _LITTLE_ROOM, _WIDE = 8, 2, 1024
SIZE_ALONE = (
    "size= says how large the gradient of a loss of yours is, so it goes with losses=: a head has "
    "its own"
)


@dataclass(frozen=True, slots=True)
class Scores:
    """What the scoring pass finds of n examples.

    Args:
        loss: float32[n], on the CPU.
        size: float32[n], non-negative, on the CPU.
        prefix: float[n, length, width], what frozen layers put out, to ride along with the
            survivors.
    """

    loss: FloatArray
    size: FloatArray
    prefix: Tensor | None = None


def check_losses(losses: Any, n: int, where: str) -> Tensor:
    """Returns the losses, float[n].

    Args:
        losses: what was given for them.
        n: how many there must be.
        where: who gave them, for the message.

    Raises:
        ScoreError: if they are not one value per example; it names the mend.
    """
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


class Launched(NamedTuple):
    """Scores that the device may still be working on: reading them waits for it.

    Args:
        loss: float[n].
        size: float[n]; None where it follows from the loss (`Scorer.size_of_loss`).
        prefix: as in `Scores`.
    """

    loss: Tensor
    size: Tensor | None
    prefix: Tensor | None = None


class Scorer(ABC):
    """Scores batches for the sieve: the only part of it that knows the model.

    Attributes:
        room: how many times the padded tokens of a training batch a scoring forward may have.
    """

    room: int = ROOM

    @abstractmethod
    def __call__(self, batch: Any) -> Scores:
        """Scores a batch of the loader's form.

        It leaves no trace: the model's mode and the random states are restored.
        """

    def launch(self, batch: Any) -> Scores | Launched:
        """Scores a batch as `__call__` does, and need not wait for the device: the sieve reads the
        scores of a whole pool at once."""
        return self(batch)

    def note(self, ids: IntArray) -> None:  # noqa: B027 - most need not know
        """Takes in which examples the last answer of a scoring pass was about: ids int64[n], of the
        first n of its rows."""

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns the sizes that go with training losses, float32[n], where only the losses are
        known (stage 1)."""
        return np.maximum(loss, 0.0)

    def features(self) -> FeatureFunction:
        """Returns what a predictor is to look at, unless the user says otherwise."""
        return token_features()

    def last_layer(self, batch: Any) -> LastLayer | None:
        """Returns what the model's last linear layer is given for a batch of the loader's form;
        None where no such layer makes the task's logits. It leaves no trace."""
        return None


def _is_wide(outputs: Any) -> bool:
    """Returns whether every token has many outputs."""
    logits = output_of(outputs)
    return isinstance(logits, Tensor) and logits.ndim > 2 and logits.shape[-1] >= _WIDE


def room_of(model: nn.Module, wide: bool) -> int:
    """Returns how many times the padded tokens of a training batch a scoring forward may have.

    Args:
        wide: whether every token has many outputs.
    """
    modules = list(unwrapped(model).modules())
    # With gradient checkpointing training holds one layer at a time, too.
    if wide or any(getattr(m, "gradient_checkpointing", False) is True for m in modules):
        return _LITTLE_ROOM
    return max([ROOM, *(len(m) for m in modules if isinstance(m, nn.ModuleList))])


def launcher(scorer: Callable[[Any], Scores]) -> Callable[[Any], Scores | Launched]:
    """Returns `scorer.launch`, or the scorer itself where its class, or the function that it is,
    has a call of its own that `launch` would pass by."""
    for kind in type(scorer).__mro__:
        if "launch" in vars(kind):
            launch: Callable[[Any], Scores | Launched] = scorer.launch  # type: ignore[attr-defined]
            return launch
        if "__call__" in vars(kind):
            break
    return scorer


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

    Args:
        model: may be wrapped.
        autocast: gives the context that training runs in.

    Yields:
        The module without its wrapper.
    """
    inner = unwrapped(model)
    training = [m for m in inner.modules() if m.training]
    cpu = torch.get_rng_state()
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    prepared = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    for module in training:
        module.training = False
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
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)


class Task(Scorer):
    """A task of `finesieve.heads`: one forward, then loss and size from the model's output.

    A compiled model is scored as it is, compiled; with `lengths=` it meets few shapes.

    Args:
        model: called as `model(**batch without targets)` on dict batches and `model(*batch[:-1])`
            on tuples, whose last element is the labels.
        head: what the outputs and the targets mean.
        keep_targets: whether the model is given the targets too; encoder-decoders make their
            decoder's input of them.
        autocast: a function giving the context that training runs in, e.g. `lambda:
            torch.autocast("cuda", torch.bfloat16)`.
        prefix: frozen first layers of this model, whose output training shares.
        more: given to the model beside a dict batch, e.g. `{"use_cache": False}`.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        keep_targets: bool = False,
        prefix: FrozenPrefix | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.head, self._kept, self._more = head, keep_targets, dict(more or {})
        self._prefix = prefix
        self.model, self._autocast = model, autocast
        self._wide: bool | None = None  # whether every token has many outputs; None: not seen yet

    @property
    def room(self) -> int:  # type: ignore[override]
        """How many times the padded tokens of a training batch a scoring forward may have."""
        return room_of(
            self.model, isinstance(self.head, Tokens) if self._wide is None else self._wide
        )

    def __call__(self, batch: Any) -> Scores:
        """Scores a batch of the loader's form; waits for the device."""
        loss, size, prefix = self.launch(batch)
        assert size is not None
        return Scores(loss.float().cpu().numpy(), size.float().cpu().numpy(), prefix)

    def launch(self, batch: Any) -> Launched:
        """Scores a batch and leaves the scores on the device (see `Launched`)."""
        keeping: AbstractContextManager[list[Tensor]] = nullcontext([])
        if self._prefix:
            keeping = self._prefix.keeping()
        with scoring(self.model, self._autocast) as model, keeping as kept:
            out, batch = self._outputs(model, batch)
            loss, size = self.head.both(out, batch)
            self._wide = _is_wide(out)
        return Launched(loss, size, *kept[:1])

    def _outputs(self, model: nn.Module, batch: Any) -> tuple[Any, Mapping[str, Any]]:
        """Returns what the model makes of a batch, and a mapping with the targets.

        Raises:
            BatchError: for a dict batch without one of the targets.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        if isinstance(batch, Mapping):
            missing = [key for key in self.head.targets if key not in batch]
            if missing:
                raise BatchError(f"no {missing[0]!r} in the batch; it has {sorted(batch)}")
            given = {
                k: to_device(v, device)
                for k, v in batch.items()
                if isinstance(v, Tensor) and (self._kept or k not in self.head.targets)
            }
            return model(**given, **self._more), batch
        *rest, labels = batch
        return model(*(to_device(x, device) for x in rest)), {self.head.targets[0]: labels}

    def last_layer(self, batch: Any) -> LastLayer | None:
        """Returns what the last linear layer is given for a batch (see `Scorer.last_layer`)."""
        if not self.head.fits or self._kept:
            return None
        # The layers of a compiled model show their calls only when it runs as it was written.
        model = unwrapped(self.model)
        with scoring(getattr(model, "_orig_mod", model), self._autocast) as plain:
            with linear_calls(plain) as calls:
                out, batch = self._outputs(plain, batch)
            logits = output_of(out)
            self.head.both(out, batch)  # complains of targets that do not fit
            found = find_last_layer(calls, logits)
        if found is None:
            return None
        layer, given = found
        targets = {
            key: torch.as_tensor(batch[key]).to(given.device).clone() for key in self.head.targets
        }
        return LastLayer(layer, given.float().clone(), self.head, targets, tuple(logits.shape[1:]))

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns the sizes that go with training losses, float32[n], by the head."""
        return self.head.size_of_loss(loss)

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: the head says."""
        return self.head.features()


class Classification(Task):
    """Single-label classification with softmax cross-entropy.

    Args:
        model: as in `Task`; returns logits [n, classes] or an object with `.logits`.
        labels: the key of the labels int64[n] in a dict batch (the last element of a tuple).
    """

    def __init__(
        self,
        model: nn.Module,
        labels: str = "labels",
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        prefix: FrozenPrefix | None = None,
    ) -> None:
        super().__init__(model, SingleLabel(labels), autocast, prefix=prefix)


class PerExample(Scorer):
    """Any task: one function, batch -> loss per example, float[n].

    Args:
        function: is called as `function(model, batch)` with the module unwrapped and in eval mode.
        size: float[n] -> float[n], the size of the gradient that goes with a loss; the loss itself
            by default. For a squared error, e.g., `lambda loss: 2 * loss ** 0.5`.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[[nn.Module, Any], Tensor],
        size: SizeFunction | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.model, self._function, self._size = model, function, size
        self._autocast = autocast
        self._wide: bool | None = None  # whether every token has many outputs; None: not seen yet

    @property
    def room(self) -> int:  # type: ignore[override]
        """How many times the padded tokens of a training batch a scoring forward may have."""
        return room_of(self.model, bool(self._wide))

    def __call__(self, batch: Any) -> Scores:
        """Scores a batch of the loader's form; waits for the device."""
        loss = self.launch(batch).loss.float().cpu().numpy()
        return Scores(loss, self.size_of_loss(loss))

    def launch(self, batch: Any) -> Launched:
        """Scores a batch and leaves the scores on the device (see `Launched`)."""
        if isinstance(batch, Mapping):
            n = len(next(iter(batch.values())))
        else:
            n = len(batch) if isinstance(batch, Tensor) else len(batch[0])
        with scoring(self.model, self._autocast) as model, self._looking(model):
            losses = check_losses(self._function(model, batch), n, "the loss function")
        return Launched(losses, None)

    @contextmanager
    def _looking(self, model: nn.Module) -> Iterator[None]:
        """Looks at the model's outputs inside, once, for how wide they are; not at a compiled
        model's, which a hook would compile anew."""
        if self._wide is not None or hasattr(model, "_orig_mod"):
            yield
            return

        def look(module: nn.Module, given: Any, out: Any) -> None:
            self._wide = bool(self._wide) or _is_wide(out)

        hook = model.register_forward_hook(look)
        try:
            yield
        finally:
            hook.remove()

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns the sizes that go with losses, float32[n]: by the function `size`, else the
        losses."""
        if self._size is None:
            return np.maximum(loss, 0.0).astype(np.float32)
        return np.asarray(self._size(loss), dtype=np.float32)
