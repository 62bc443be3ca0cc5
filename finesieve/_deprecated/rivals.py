"""`finesieve.rivals` is in `finesieve.methods.baselines.infobatch`,
`finesieve.methods.baselines.loss_rules` and `finesieve.methods.baselines.rho_loss` now."""

from finesieve._deprecated import moved
from finesieve.methods.baselines.infobatch import Annealed, InfoBatch, Known
from finesieve.methods.baselines.loss_rules import LossSampling, SelectiveBackprop, TopLoss
from finesieve.methods.baselines.rho_loss import Reducible

__all__ = [
    "Annealed",
    "InfoBatch",
    "Known",
    "LossSampling",
    "Reducible",
    "SelectiveBackprop",
    "TopLoss",
]

moved(
    "finesieve.rivals",
    "in finesieve.methods.baselines.infobatch, finesieve.methods.baselines.loss_rules and "
    "finesieve.methods.baselines.rho_loss",
)
