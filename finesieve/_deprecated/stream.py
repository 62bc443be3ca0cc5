"""`finesieve.stream` is `finesieve.sieve.sieve` now."""

import sys

from finesieve._deprecated import moved
from finesieve.sieve import sieve

moved("finesieve.stream", "finesieve.sieve.sieve")
sys.modules[__name__] = sieve
