"""Methods by name. A method is nothing but gates in places and a policy of stages."""

from finesieve.methods.method import Method
from finesieve.methods.registry import (
    REGISTRY,
    authors,
    build,
    finesieve,
    full,
    infobatch,
    loss_sampling,
    paper,
    quantile,
    random,
    rho_loss,
    selective_backprop,
    top_loss,
)

__all__ = [
    "REGISTRY", "Method", "authors", "build", "finesieve", "full", "infobatch", "loss_sampling",
    "paper", "quantile", "random", "rho_loss", "selective_backprop", "top_loss",
]
