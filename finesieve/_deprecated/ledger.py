"""`finesieve.ledger` is in `finesieve.costs.ledger` and `finesieve.costs.timer` now."""

from finesieve._deprecated import moved
from finesieve.costs.ledger import Counts, Ledger
from finesieve.costs.timer import Clock

__all__ = ["Clock", "Counts", "Ledger"]

moved("finesieve.ledger", "in finesieve.costs.ledger and finesieve.costs.timer")
