"""Methods by name, for the command line and for suites, and of whatever a user gives as one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from finesieve.errors import ConfigError
from finesieve.methods import recipes
from finesieve.methods.baselines import recipes as baselines
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe, check_known

_BY_ITSELF = ("train", "score", "cost_ratio")  # found where they are None


def ours(**settings: Any) -> Recipe:
    """Returns our method's recipe: `Budget` where `budget` is given, `Manual` where `starts` is,
    else `Adaptive`."""
    every = (recipes.Adaptive, recipes.Budget, recipes.Manual)
    known = {one.name: None for recipe in every for one in fields(recipe)}  # in order, once each
    check_known("finesieve", [name for name in (*known, "budget") if name != "share"], settings)
    budget, starts = settings.pop("budget", None), settings.pop("starts", None)
    given = {k: v for k, v in settings.items() if v is not None or k not in _BY_ITSELF}
    if budget is not None:
        if starts is not None or {"train", "score"} & given.keys():
            raise ConfigError("budget sets shares and stages: leave out train, score and starts")
        given.pop("least", None)
        return recipes.Budget(budget, **given)
    if starts is not None:
        return recipes.Manual(starts, **given)
    return recipes.Adaptive(**given)


REGISTRY: Mapping[str, Callable[..., Recipe]] = {
    "finesieve": ours,
    "paper": baselines.Paper,
    "authors": baselines.Authors,
    "full": recipes.Full,
    "random": recipes.RandomSubset,
    "quantile": baselines.Quantile,
    "selective-backprop": baselines.SelectiveBackprop,
    "top-loss": baselines.TopLoss,
    "loss-sampling": baselines.LossSampling,
    "infobatch": baselines.InfoBatch,
    "rho-loss": baselines.RhoLoss,
}


def named(name: str, /, **settings: Any) -> Recipe:
    """Returns the recipe of this name with these settings.

    Raises:
        ConfigError: for a wrong name, with the nearest one, or a wrong setting.
    """
    if name not in REGISTRY:
        near = get_close_matches(name, REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no method {name!r}; there are {', '.join(REGISTRY)}{hint}")
    return REGISTRY[name](**settings)


def build(name: str, seed: int = 0, /, **settings: Any) -> Method:
    """Returns the method of this name.

    Args:
        name: from `REGISTRY`, or `module:function` for a function of yours that is called as
            `function(seed=seed, **settings)` and returns a `Method`.
        seed: of the method's gates.
        settings: fields of the recipe.

    Raises:
        ConfigError: for a wrong name, with the nearest one, or a wrong setting.
    """
    if ":" in name:
        return _imported(name, seed, settings)
    return named(name, **settings).build(seed)


def _imported(name: str, seed: int, settings: dict[str, Any]) -> Method:
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)(seed=seed, **settings)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"method {name!r}: {error}") from None
    if not isinstance(made, Method):
        raise ConfigError(f"{name} gave a {type(made).__name__}; expected a finesieve Method")
    return made


def method_of(method: Recipe | Method | str | None, seed: int) -> Method:
    """Returns a method with gates of its own: of the default recipe, a recipe, or a name. A
    `Method` is returned as it is.

    Raises:
        ConfigError: for anything else, or an unknown name.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return build(method, seed)
    if method is None or isinstance(method, Recipe):
        return (method or recipes.Adaptive()).build(seed)
    a_class = isinstance(method, type)
    kind = f"the class {method.__name__}" if a_class else f"a {type(method).__name__}"
    if isinstance(method, (int, float)):
        kind += " (a share of plain training's time is Budget(0.2))"
    raise ConfigError(
        f"method is {kind}; expected a recipe such as Adaptive() "
        "(not the class), a Method, or a name"
    )
