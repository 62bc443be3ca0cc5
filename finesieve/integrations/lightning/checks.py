"""What of a Lightning trainer's settings a sieve cannot serve, and what to set instead."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from finesieve.errors import ConfigError
from finesieve.integrations.common import unserved

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
_SERVED = ("SingleDeviceStrategy", "DDPStrategy")


def check(trainer: Any) -> None:
    """Raises `ConfigError` for settings of a trainer that cannot be served rightly."""
    wrong: list[str] = []
    kinds = [kind.__name__ for kind in type(trainer.strategy).__mro__]
    if any(k in _SHARDED for k in kinds) or not any(k in _SERVED for k in kinds):
        wrong += unserved(
            sharded=f"Trainer(strategy=...) is {kinds[0]}; expected 'ddp' or one device: a "
            "sharded model cannot be scored by one rank alone"
        )
    for name in ("val_check_interval", "limit_train_batches"):
        value = getattr(trainer, name)
        if isinstance(value, float) and value != 1.0:
            wrong.append(
                f"Trainer({name}={value}): nobody knows beforehand how many batches "
                "survive; give a whole number of batches"
            )
    if trainer.max_steps > 0 and trainer.max_epochs > 0:
        wrong.append(
            f"Trainer(max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps})"
            ": nobody knows beforehand which comes first, and the schedule needs to "
            "know: set one of them (max_epochs=-1 beside max_steps)"
        )
    if trainer.overfit_batches:
        wrong.append(
            f"Trainer(overfit_batches={trainer.overfit_batches}): there is nothing "
            "to filter in a few batches; leave the sieve out (method='full')"
        )
    if wrong:
        raise ConfigError("the sieve cannot be used: " + "; ".join(wrong))


def check_forward(module: LightningModule) -> None:
    """Raises `ConfigError` for a module that only has a `training_step`: nothing tells how its
    outputs are computed without the loss."""
    if type(module).forward is LightningModule.forward and "forward" not in vars(module):
        raise ConfigError(
            f"{type(module).__name__} has no forward, and with head= the sieve calls "
            "module(**batch without targets) for the outputs that the head expects: define "
            "forward, or give losses=function, a function (module, batch) -> loss per example"
        )


def check_sampler(trainer: Any, loader: Any) -> None:
    """Raises `ConfigError` where each rank would draw all the data.

    Lightning shards a `DataLoader` over ranks by itself, but not what wraps one.
    """
    if trainer.world_size == 1 or not isinstance(loader, DataLoader):
        return
    given = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    shards = any(isinstance(s, DistributedSampler) for s in given)
    if not shards and not isinstance(loader.dataset, IterableDataset):
        raise ConfigError(
            f"{trainer.world_size} devices, but the loader's sampler gives each of them "
            "all the data: DataLoader(..., sampler=DistributedSampler(data, "
            "trainer.world_size, trainer.global_rank))"
        )


def not_wrapped() -> ConfigError:
    """Returns the error for a train loader that does not go through the sieve."""
    return ConfigError(
        "the train loader is not the sieve's: trainer.fit(module, sieved(loader)), or return "
        "self.sieved(loader) from train_dataloader"
    )
