"""`finesieve.hf` is `finesieve.integrations.transformers.attach` now."""

import sys

from finesieve._deprecated import moved
from finesieve.integrations.transformers import attach

moved("finesieve.hf", "finesieve.integrations.transformers.attach")
sys.modules[__name__] = attach
