"""finesieve: fine-tune a language model cheaper by not training on what teaches it nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

__all__ = [
    "Adaptive",
    "Budget",
    "FinesieveError",
    "Full",
    "Gate",
    "Manual",
    "Offer",
    "RandomSubset",
    "Sieve",
    "SieveOptions",
    "Verdict",
    "attach",
    "heads",
    "inputs",
    "inspect",
]

if TYPE_CHECKING:
    from finesieve import methods
    from finesieve.batches.carry import inputs, is_filler
    from finesieve.errors import (
        BatchError,
        CollapseWarning,
        ConfigError,
        DataError,
        FinesieveError,
        FinesieveWarning,
        GateError,
        LawError,
        ScoreError,
        SettingError,
        StateError,
    )
    from finesieve.gates import laws as checks
    from finesieve.gates.features import text_features, token_features
    from finesieve.gates.forward import PredictorGate
    from finesieve.gates.predictor import Predictor, SizeRegression
    from finesieve.gates.protocol import Features, Gate, Offer, Verdict
    from finesieve.gates.sampling import ThresholdSampling
    from finesieve.gates.simple import Open, Random
    from finesieve.insight.inspecting import inspect
    from finesieve.integrations.attach import attach
    from finesieve.methods.baselines.loss_rules import Quantile
    from finesieve.methods.baselines.naive_bayes import NaiveBayes
    from finesieve.methods.baselines.paper import CutOff, LossThreshold, Paper
    from finesieve.methods.method import Method
    from finesieve.methods.recipes import Adaptive, Budget, Full, Manual, RandomSubset
    from finesieve.scoring import heads
    from finesieve.scoring import scorers as scores
    from finesieve.sieve.options import SieveOptions
    from finesieve.sieve.schedule import StreamSchedule
    from finesieve.sieve.sieve import Sieve
    from finesieve.stages.automatic import Automatic
    from finesieve.stages.policy import Fixed, Stages

# Where each name lives. They are loaded when they are asked for, so that the command line can
# answer without PyTorch. Names that are not in `__all__` are those that version 0.1 had here.
_PLACES = {
    "errors": "BatchError CollapseWarning ConfigError DataError FinesieveError FinesieveWarning "
    "GateError LawError ScoreError SettingError StateError",
    "batches.carry": "inputs is_filler",
    "gates.features": "text_features token_features",
    "gates.forward": "PredictorGate",
    "gates.predictor": "Predictor SizeRegression",
    "gates.protocol": "Features Gate Offer Verdict",
    "gates.sampling": "ThresholdSampling",
    "gates.simple": "Open Random",
    "insight.inspecting": "inspect",
    "integrations.attach": "attach",
    "methods.baselines.loss_rules": "Quantile",
    "methods.baselines.naive_bayes": "NaiveBayes",
    "methods.baselines.paper": "CutOff LossThreshold Paper",
    "methods.method": "Method",
    "methods.recipes": "Adaptive Budget Full Manual RandomSubset",
    "sieve.options": "SieveOptions",
    "sieve.schedule": "StreamSchedule",
    "sieve.sieve": "Sieve",
    "stages.automatic": "Automatic",
    "stages.policy": "Fixed Stages",
}
_PLACE = {name: module for module, names in _PLACES.items() for name in names.split()}
_MODULES = {"checks": "gates.laws", "heads": "scoring.heads", "scores": "scoring.scorers"}

# Old import paths work for one more release, with a warning: their modules are found there.
__path__.append(f"{__path__[0]}/_deprecated")


def __getattr__(name: str) -> Any:
    """Returns a public name, loaded now; or a module of version 0.1 that was an attribute as soon
    as the package was imported.

    Raises:
        AttributeError: for any other name.
    """
    if name in _PLACE:
        value = getattr(import_module(f"finesieve.{_PLACE[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"finesieve.{_MODULES[name]}")
    elif name in _FOLDERS:
        value = import_module(f"finesieve.{name}")
    else:
        from finesieve._deprecated import LOADED

        if name in LOADED:
            return import_module(f"finesieve.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


_FOLDERS = {
    "batches",
    "cli",
    "costs",
    "errors",
    "gates",
    "insight",
    "integrations",
    "methods",
    "scoring",
    "sieve",
    "stages",
}


def __dir__() -> list[str]:
    """Returns the public names, sorted, and what has been loaded."""
    return sorted({*__all__, *globals()})
