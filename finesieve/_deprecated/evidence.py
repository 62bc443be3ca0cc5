"""`finesieve.evidence` is in `finesieve.stages.prices` and `finesieve.stages.window` now."""

from finesieve._deprecated import moved
from finesieve.stages.prices import Prices, stage_prices
from finesieve.stages.window import Array, Window, auc

__all__ = ["Array", "Prices", "Window", "auc", "stage_prices"]

moved("finesieve.evidence", "in finesieve.stages.prices and finesieve.stages.window")
