"""`finesieve.thresholds` is in `finesieve.gates.sampling`, `finesieve.methods.baselines.loss_rules`
and `finesieve.methods.baselines.paper` now."""

from finesieve._deprecated import moved
from finesieve.gates.sampling import (
    Array,
    ThresholdSampling,
    balanced_threshold,
    inclusion,
    solve_threshold,
)
from finesieve.methods.baselines.loss_rules import History, Quantile
from finesieve.methods.baselines.paper import CutOff, LossThreshold

__all__ = [
    "Array",
    "CutOff",
    "History",
    "LossThreshold",
    "Quantile",
    "ThresholdSampling",
    "balanced_threshold",
    "inclusion",
    "solve_threshold",
]

moved(
    "finesieve.thresholds",
    "in finesieve.gates.sampling, finesieve.methods.baselines.loss_rules and "
    "finesieve.methods.baselines.paper",
)
