"""Lightning's Trainer: a callback that wraps the train loader."""

from finesieve.integrations.lightning.callback import LossFunction, SieveCallback, attach

__all__ = ["LossFunction", "SieveCallback", "attach"]
