"""finesieve: fine-tune a language model cheaper by not training on what teaches it nothing."""

from typing import TYPE_CHECKING, Any

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
    "LawError", "LossThreshold", "Method", "NaiveBayes", "Offer", "Open", "Paper", "Predictor",
    "PredictorGate", "Quantile", "Random", "ScoreError", "Sieve", "SizeRegression", "Stages",
    "StateError", "StreamSchedule", "ThresholdSampling", "Verdict", "checks", "heads", "inputs",
    "is_filler", "methods", "scores", "text_features", "token_features",
]

# Old import paths work for one more release, with a warning: their modules are found there.
__path__.append(f"{__path__[0]}/_deprecated")

if TYPE_CHECKING:
    from finesieve.gates import laws as checks
else:

    def __getattr__(name: str) -> Any:
        """`checks`, which only the tests of a gate need, and the modules of version 0.1 that were
        attributes as soon as the package was imported."""
        from importlib import import_module

        if name == "checks":
            return import_module("finesieve.gates.laws")
        from finesieve._deprecated import LOADED

        if name in LOADED:
            return import_module(f"finesieve.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
