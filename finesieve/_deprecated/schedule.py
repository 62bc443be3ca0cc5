"""`finesieve.schedule` is `finesieve.sieve.schedule` now."""

import sys

from finesieve._deprecated import moved
from finesieve.sieve import schedule

moved("finesieve.schedule", "finesieve.sieve.schedule")
sys.modules[__name__] = schedule
