"""`finesieve.checks` is `finesieve.gates.laws` now."""

import sys

from finesieve._deprecated import moved
from finesieve.gates import laws

moved("finesieve.checks", "finesieve.gates.laws")
sys.modules[__name__] = laws
