"""`finesieve.accelerate` is `finesieve.integrations.accelerate` now."""

import sys

from finesieve._deprecated import moved
from finesieve.integrations import accelerate

moved("finesieve.accelerate", "finesieve.integrations.accelerate")
sys.modules[__name__] = accelerate
