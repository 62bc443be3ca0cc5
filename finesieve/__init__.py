"""finesieve: fine-tune a language model cheaper by not training on what teaches it nothing.

Public names are loaded when they are first asked for: importing the package alone, as the command
line does to tell its version, loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
        ScoreError,
        StateError,
    )
    from finesieve.gates.features import text_features, token_features
    from finesieve.gates.forward import PredictorGate
    from finesieve.gates.predictor import Predictor, SizeRegression
    from finesieve.gates.protocol import Features, Gate, Offer, Verdict
    from finesieve.gates.sampling import ThresholdSampling
    from finesieve.gates.simple import Open, Random
    from finesieve.methods.baselines.loss_rules import Quantile
    from finesieve.methods.baselines.naive_bayes import NaiveBayes
    from finesieve.methods.baselines.paper import CutOff, LossThreshold, Paper
    from finesieve.methods.method import Method
    from finesieve.scoring import heads
    from finesieve.scoring import scorers as scores
    from finesieve.sieve.schedule import StreamSchedule
    from finesieve.sieve.sieve import Sieve
    from finesieve.stages.automatic import Automatic
    from finesieve.stages.policy import Fixed, Stages

__version__ = "0.1.0"

__all__ = [
    "Automatic", "BatchError", "CollapseWarning", "ConfigError", "CutOff", "DataError",
    "Features", "FinesieveError", "FinesieveWarning", "Fixed", "Gate", "GateError",
    "LossThreshold", "Method", "NaiveBayes", "Offer", "Open", "Paper", "Predictor",
    "PredictorGate", "Quantile", "Random", "ScoreError", "Sieve", "SizeRegression", "Stages",
    "StateError", "StreamSchedule", "ThresholdSampling", "Verdict", "checks", "heads", "inputs",
    "is_filler", "methods", "scores", "text_features", "token_features",
]

# The module of each public name, without "finesieve."; type checkers read the imports above.
_NAMES = {
    "batches.carry": "inputs is_filler",
    "errors":
        "BatchError CollapseWarning ConfigError DataError FinesieveError FinesieveWarning "
        "GateError ScoreError StateError",
    "gates.features": "text_features token_features",
    "gates.forward": "PredictorGate",
    "gates.predictor": "Predictor SizeRegression",
    "gates.protocol": "Features Gate Offer Verdict",
    "gates.sampling": "ThresholdSampling",
    "gates.simple": "Open Random",
    "methods.baselines.loss_rules": "Quantile",
    "methods.baselines.naive_bayes": "NaiveBayes",
    "methods.baselines.paper": "CutOff LossThreshold Paper",
    "methods.method": "Method",
    "sieve.schedule": "StreamSchedule",
    "sieve.sieve": "Sieve",
    "stages.automatic": "Automatic",
    "stages.policy": "Fixed Stages",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
# Public names that are modules themselves.
_MODULES = {"checks": "gates.laws", "heads": "scoring.heads", "methods": "methods",
            "scores": "scoring.scorers"}
# Folders that were attributes as soon as the package was imported.
_FOLDERS = ("batches", "costs", "errors", "gates", "scoring", "sieve", "stages")

# Old import paths work for one more release, with a warning: their modules are found there.
__path__.append(f"{__path__[0]}/_deprecated")

if not TYPE_CHECKING:  # for type checkers there is nothing but the imports above

    def __getattr__(name: str) -> Any:
        """Load a public name; or a module of version 0.1 that was an attribute, with a warning."""
        if name in _MODULE_OF:
            found = getattr(import_module(f"finesieve.{_MODULE_OF[name]}"), name)
        elif name in _MODULES:
            found = import_module(f"finesieve.{_MODULES[name]}")
        elif name in _FOLDERS:
            return import_module(f"finesieve.{name}")
        else:
            from finesieve._deprecated import LOADED

            if name in LOADED:
                return import_module(f"finesieve.{name}")
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found  # the next time it is found without this function
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_FOLDERS})
