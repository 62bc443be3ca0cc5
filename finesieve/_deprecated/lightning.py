"""`finesieve.lightning` is `finesieve.integrations.lightning` now."""

import sys

from finesieve._deprecated import moved
from finesieve.integrations import lightning

moved("finesieve.lightning", "finesieve.integrations.lightning")
sys.modules[__name__] = lightning
