"""One verb for every trainer: `attach(trainer)`, by the trainer's type, which is not imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from finesieve.errors import ConfigError
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe

# Package and class that a trainer's class descends from -> the module that serves it.
_HOSTS = {
    ("transformers", "Trainer"): "finesieve.integrations.transformers.attach",
    ("lightning", "Trainer"): "finesieve.integrations.lightning",
    ("pytorch_lightning", "Trainer"): "finesieve.integrations.lightning",
}


def attach(trainer: Any, method: Recipe | Method | str | None = None, **options: Any) -> Any:
    """Filters what a trainer trains on. Call it once, before training begins.

    Args:
        trainer: a `transformers.Trainer` or one built on it (TRL's, SetFit's), or a
            `lightning.Trainer`.
        method: a recipe, `Adaptive()` by default, or its name.
        options: of the host: see `finesieve.integrations.transformers.attach.attach` and
            `finesieve.integrations.lightning.SieveCallback`; and settings of `Sieve` and
            `SieveOptions`.

    Returns:
        A handle with `figures()`, `detach()` and, while it trains, `sieve`. For Lightning it is a
        `SieveCallback`, already among the trainer's callbacks: wrap the loader with it,
        `trainer.fit(module, sieved(loader))`, and return `sieved.loss(losses, batch)` from
        `training_step`.

    Raises:
        ConfigError: for anything that is no such trainer, and for settings of the trainer that
            cannot be served rightly, all of them in one message.
    """
    for kind in type(trainer).__mro__:
        module = _HOSTS.get((kind.__module__.partition(".")[0], kind.__name__))
        if module is not None:
            return import_module(module).attach(trainer, method, **options)
    hint = ""
    if type(trainer).__name__ == "Accelerator":
        hint = (
            ": with Accelerate filter the prepared loader, "
            "finesieve.integrations.accelerate.FilteredLoader(accelerator, loader, model)"
        )
    elif hasattr(trainer, "__iter__") or hasattr(trainer, "forward"):
        hint = ": in a loop of your own use finesieve.Sieve(model, total=...)"
    raise ConfigError(
        f"a {type(trainer).__name__}; expected a Trainer of transformers, TRL or Lightning{hint}"
    )
