"""Frozen first layers, computed once: the scoring pass keeps what they put out, training takes it.

Scoring an example runs all layers; training on it afterwards needs no second pass through layers
whose weights do not change. Their output rides along with the survivors, so training begins at the
first layer that learns. Freezing then saves twice: no backward pass there, and no second forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from finesieve.batches.carry import PREFIX
from finesieve.errors import ConfigError

Forward = Callable[..., Any]


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Returns the longest list of layers in the model.

    Raises:
        ConfigError: if it has none.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ConfigError(f"a {type(model).__name__} has no nn.ModuleList of layers to freeze")
    return max(lists, key=len)


def freeze(model: nn.Module, count: int) -> None:
    """Freezes the embeddings and the first `count` layers; 0 freezes nothing.

    Raises:
        ConfigError: for more layers than the model has.
    """
    if count == 0:
        return
    layers = layers_of(model)
    if not 0 < count <= len(layers):
        raise ConfigError(f"freeze is {count}, but the model has {len(layers)} layers")
    frozen: list[nn.Module] = list(layers)[:count]
    frozen += [m for m in model.modules() if isinstance(m, nn.Embedding)]
    frozen += [m for name, m in model.named_modules() if name.endswith("embeddings")]
    for module in frozen:
        for parameter in module.parameters():
            parameter.requires_grad = False


class FrozenPrefix:
    """The first `count` layers of a model, frozen and without dropout.

        prefix = FrozenPrefix(model, 3)
        sieve = Sieve(model, total=len(data), options=SieveOptions(prefix=prefix))
        for batch in sieve(loader):
            with prefix.shared(batch):
                logits = model(**inputs(batch)).logits

    Under the Trainer: `attach(trainer, prefix=prefix)`.

    Batches need an `attention_mask`. What the layers put out, float[n, length, width], is held for
    the examples of a pool and for the survivors that wait: with 256 examples of 128 tokens and 768
    features in fp32 that is 100 MB. Not for compiled models, whose layers cannot be left out.

    Args:
        model: with a list of layers (`layers_of`), each giving its hidden states, a tensor or the
            first of a tuple.
        count: 1 to all layers.

    Raises:
        ConfigError: if a parameter of these layers is trained, or if they have dropout, which would
            make each pass through them another one.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        layers = layers_of(model)
        if not 0 < count <= len(layers):
            raise ConfigError(
                f"{count} frozen layers; expected 1 to {len(layers)}, what the model has"
            )
        self._layers = list(layers)[:count]
        for i, layer in enumerate(self._layers):
            for name, parameter in layer.named_parameters():
                if parameter.requires_grad:
                    raise ConfigError(
                        f"{name} of layer {i} is trained: freeze the first {count} "
                        "layers and the embeddings first "
                        "(finesieve.scoring.frozen.freeze)"
                    )
            for name, module in layer.named_modules():
                rates = [
                    value
                    for key, value in vars(module).items()
                    if "dropout" in key and isinstance(value, float)
                ]  # the functional form's
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    rates.append(module.p)
                rate = max(rates, default=0.0)
                if rate > 0:
                    raise ConfigError(
                        f"{name} of layer {i} drops {rate:.0%}: set the dropout of "
                        "frozen layers to 0, or share nothing"
                    )

        self._tuple: bool | None = None  # the form of a layer's output; not known before the first

    def belongs_to(self, model: nn.Module) -> bool:
        """Returns whether these layers are the model's own."""
        own = {id(module) for module in model.modules()}
        return all(id(layer) in own for layer in self._layers)

    @contextmanager
    def keeping(self) -> Iterator[list[Tensor]]:
        """Yields a list into which the frozen layers' output, float[n, length, width], comes from
        the one forward that is made inside."""
        kept: list[Tensor] = []

        def keep(plain: Forward, *args: Any, **kwargs: Any) -> Any:
            out = plain(*args, **kwargs)
            kept.append(self._hidden(out))
            return out

        with _replaced([self._layers[-1]], keep):
            yield kept

    @contextmanager
    def shared(self, batch: Any) -> Iterator[None]:
        """Lets forwards inside begin after the frozen layers, if what these put out rides in the
        batch (it was scored); else they are the plain ones.

        Args:
            batch: as the sieve yielded it.

        Raises:
            ConfigError: by the forward, if something before the frozen layers is trained.
        """
        stored = batch.get(PREFIX) if isinstance(batch, Mapping) else None
        *before, last = self._layers

        def check(plain: Forward, *args: Any, **kwargs: Any) -> Any:
            out = plain(*args, **kwargs)
            if self._hidden(out).requires_grad:
                raise ConfigError(
                    "something before the frozen layers is trained (the "
                    "embeddings?): their output changes, so it cannot be shared"
                )
            return out

        def skip(plain: Forward, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states,) if self._tuple else hidden_states

        def give(plain: Forward, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            assert stored is not None
            hidden = stored.to(hidden_states.device)
            if self._tuple is None:  # right after resuming: see what the layer gives
                self._hidden(plain(hidden, *args, **kwargs))
            return (hidden,) if self._tuple else hidden

        if stored is None:
            with _replaced([last], check):
                yield
        else:
            with _replaced([last], give), _replaced(before, skip):
                yield

    def _hidden(self, out: Any) -> Tensor:
        self._tuple = isinstance(out, tuple)
        hidden = out[0] if self._tuple else out
        if self._tuple and any(isinstance(x, Tensor) for x in out[1:]):
            raise ConfigError(
                "a frozen layer gives more than its hidden states (position biases, "
                "attentions): its output cannot be shared"
            )
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise ConfigError(
                "a frozen layer gives no hidden states [n, length, width]: its "
                "output cannot be shared"
            )
        return hidden


@contextmanager
def _replaced(layers: Sequence[nn.Module], by: Callable[..., Any]) -> Iterator[None]:
    """Puts `by(plain, ...)` in the place of these layers' own `forward(...)`, inside."""
    # A layer may have a forward of its own already (hooks of Accelerate's, say).
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(by, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward
