"""Lightning's Trainer: a callback that wraps the train loader."""

from finesieve.integrations.lightning.callback import SieveCallback, attach

__all__ = ["SieveCallback", "attach"]
