"""`finesieve.budget` is `finesieve.stages.budget` now."""

import sys

from finesieve._deprecated import moved
from finesieve.stages import budget

moved("finesieve.budget", "finesieve.stages.budget")
sys.modules[__name__] = budget
