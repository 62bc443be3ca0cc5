"""`finesieve.features` is `finesieve.gates.features` now."""

import sys

from finesieve._deprecated import moved
from finesieve.gates import features

moved("finesieve.features", "finesieve.gates.features")
sys.modules[__name__] = features
