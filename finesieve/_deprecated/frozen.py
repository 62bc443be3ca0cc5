"""`finesieve.frozen` is `finesieve.scoring.frozen` now."""

import sys

from finesieve._deprecated import moved
from finesieve.scoring import frozen

moved("finesieve.frozen", "finesieve.scoring.frozen")
sys.modules[__name__] = frozen
