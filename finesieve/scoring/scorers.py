"""The scoring pass: loss and size of the gradient of every example, without a gradient.

The size is the norm of the loss's gradient with respect to the last layer's output. For softmax
cross-entropy it is ||softmax(logits) - onehot(label)||_2, free in the scoring pass, in
[0, sqrt(2)] (Katharopoulos & Fleuret, "Not all samples are created equal", ICML 2018, show that
it bounds the full gradient's norm up to a factor that hardly depends on the example).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finesieve.batches.device import to_device
from finesieve.errors import BatchError
from finesieve.gates.features import FeatureFunction
from finesieve.gates.protocol import FloatArray
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.heads import Head, SingleLabel, Tokens
from finesieve.scoring.last_layer import LastLayer, find_last_layer, linear_calls
from finesieve.scoring.mode import scoring, unwrapped
from finesieve.scoring.outputs import OTHER_NAMES, output_of
from finesieve.scoring.protocol import ROOM, Launched, Scorer, Scores, check_losses, launcher

__all__ = [
    "SIZE_ALONE",
    "Classification",
    "Launched",
    "PerExample",
    "Scorer",
    "Scores",
    "SizeFunction",
    "Task",
    "check_losses",
    "launcher",
    "scoring",
    "unwrapped",
]

SizeFunction = Callable[[FloatArray], FloatArray]
Prepare = Callable[[Any], Any]
# Where every token has this many outputs, the outputs are what fills the memory, in training too:
# then a scoring forward has little more room than a training batch (see `ROOM`).
_LITTLE_ROOM, _WIDE = 2, 1024
SIZE_ALONE = (
    "size= says how large the gradient of a loss of yours is, so it goes with losses=: a head has "
    "its own"
)


def _is_wide(outputs: Any) -> bool:
    """Returns whether every token has many outputs."""
    logits = output_of(outputs)
    return isinstance(logits, Tensor) and logits.ndim > 2 and logits.shape[-1] >= _WIDE


def prepared(model: nn.Module, batch: Any, prepare: Prepare | None) -> Any:
    """Returns the batch as the training step would see it, and leaves no trace of making it so: a
    host's hooks may draw random numbers, and may ask whether the model is in training."""
    if prepare is None:
        return batch
    with scoring(model):
        return prepare(batch)


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
        prepare: makes of a batch of the loader's what the training step would see, where a host
            converts or moves batches in between.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        keep_targets: bool = False,
        prefix: FrozenPrefix | None = None,
        more: Mapping[str, Any] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._prepare = prepare
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
        batch = prepared(self.model, batch, self._prepare)
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
                raise BatchError(
                    f"no {missing[0]!r} in the batch; it has {sorted(batch)}{OTHER_NAMES}"
                )
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
        batch = prepared(self.model, batch, self._prepare)
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
        prepare: as in `Task`.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[[nn.Module, Any], Tensor],
        size: SizeFunction | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self._prepare = prepare
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
        batch = prepared(self.model, batch, self._prepare)
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
