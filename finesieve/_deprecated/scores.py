"""`finesieve.scores` is `finesieve.scoring.scorers` now."""

import sys

from finesieve._deprecated import moved
from finesieve.scoring import scorers

moved("finesieve.scores", "finesieve.scoring.scorers")
sys.modules[__name__] = scorers
