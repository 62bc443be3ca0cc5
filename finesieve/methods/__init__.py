"""Methods: a gate for each place and a policy of stages; recipes build them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from finesieve.methods import registry
from finesieve.methods.baselines.recipes import (
    Authors,
    InfoBatch,
    LossSampling,
    Paper,
    Quantile,
    RhoLoss,
    SelectiveBackprop,
    TopLoss,
)
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe
from finesieve.methods.recipes import Adaptive, Budget, Full, Manual, RandomSubset
from finesieve.methods.registry import REGISTRY, named

__all__ = [
    "REGISTRY",
    "Adaptive",
    "Authors",
    "Budget",
    "Full",
    "InfoBatch",
    "LossSampling",
    "Manual",
    "Method",
    "Paper",
    "Quantile",
    "RandomSubset",
    "Recipe",
    "RhoLoss",
    "SelectiveBackprop",
    "TopLoss",
    "named",
]

# Functions of version 0.1, which go with 0.3, and the recipes that replace them.
_OLD = {
    "build": "named(name, **settings)",
    "finesieve": "Adaptive, Budget or Manual",
    "paper": "Paper",
    "authors": "Authors",
    "full": "Full",
    "random": "RandomSubset",
    "quantile": "Quantile",
    "selective_backprop": "SelectiveBackprop",
    "top_loss": "TopLoss",
    "loss_sampling": "LossSampling",
    "infobatch": "InfoBatch",
    "rho_loss": "RhoLoss",
}


def __getattr__(name: str) -> Callable[..., Method]:
    """Returns a function of version 0.1, with a warning that names the recipe.

    Raises:
        AttributeError: for any other name.
    """
    if name not in _OLD:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"finesieve.methods.{name} goes with version 0.3: use finesieve.methods.{_OLD[name]}",
        DeprecationWarning,
        stacklevel=2,
    )
    if name == "build":
        return registry.build

    def build(seed: int = 0, **settings: Any) -> Method:
        return registry.build(name.replace("_", "-"), seed, **settings)

    return build
