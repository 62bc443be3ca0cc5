"""`finesieve.agreement` is `finesieve.sieve.ranks` now."""

import sys

from finesieve._deprecated import moved
from finesieve.sieve import ranks

moved("finesieve.agreement", "finesieve.sieve.ranks")
sys.modules[__name__] = ranks
