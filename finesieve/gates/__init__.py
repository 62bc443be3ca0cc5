"""Gates decide which examples go on, and with which probability."""

from finesieve.costs.meter import COST_RATIO, SURVIVOR
from finesieve.gates.dice import Dice, strata
from finesieve.gates.protocol import (
    BoolArray,
    Features,
    FloatArray,
    Gate,
    IntArray,
    Limits,
    Offer,
    State,
    Verdict,
)
from finesieve.gates.simple import Open, Random

__all__ = [
    "COST_RATIO",
    "SURVIVOR",
    "BoolArray",
    "Dice",
    "Features",
    "FloatArray",
    "Gate",
    "IntArray",
    "Limits",
    "Offer",
    "Open",
    "Random",
    "State",
    "Verdict",
    "strata",
]
