"""`finesieve.heads` is `finesieve.scoring.heads` now."""

import sys

from finesieve._deprecated import moved
from finesieve.scoring import heads

moved("finesieve.heads", "finesieve.scoring.heads")
sys.modules[__name__] = heads
