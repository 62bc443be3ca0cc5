"""`finesieve.ledger` is `finesieve.costs.ledger` now."""

import sys

from finesieve._deprecated import moved
from finesieve.costs import ledger

moved("finesieve.ledger", "finesieve.costs.ledger")
sys.modules[__name__] = ledger
