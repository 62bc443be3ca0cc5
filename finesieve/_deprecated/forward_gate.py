"""`finesieve.forward_gate` is `finesieve.gates.forward` now."""

import sys

from finesieve._deprecated import moved
from finesieve.gates import forward

moved("finesieve.forward_gate", "finesieve.gates.forward")
sys.modules[__name__] = forward
