"""Lightning with a sieve: settings, losses and batches of one's own, and what is refused."""

from __future__ import annotations

import copy
import csv
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

import finesieve as fs
from finesieve.batches.carry import IDS

pytest.importorskip("lightning")

from lightning.pytorch.callbacks import ModelCheckpoint

from finesieve.integrations.lightning import SieveCallback
from finesieve.integrations.lightning.checks import check_sampler
from tests.integrations.lightning.kit import (
    QUIET,
    ROWS,
    Classifier,
    closed,
    collate,
    loader,
    never,
    sieved,
    trainer,
)

pytestmark = QUIET


class Encoding(UserDict[str, Tensor]):
    """As a tokenizer makes them: moving one to a device gives the very same object."""

    def to(self, device: Any, non_blocking: bool = False) -> Encoding:
        return self


def test_a_step_may_take_its_batch_apart(tmp_path: Path) -> None:
    """What is held for the checkpoint is not what the step was given."""

    class Greedy(Classifier):
        def training_step(self, batch: Any, index: int) -> Tensor:
            if index == 30:
                batch.clear()
                raise RuntimeError("stop here")
            assert isinstance(batch, Encoding)
            loss = super().training_step(batch, index)
            batch.clear()
            return loss

    callback = sieved()
    host = trainer(tmp_path, callback)
    with pytest.raises(RuntimeError, match="stop here"):
        host.fit(Greedy(callback), callback(loader(collate_fn=lambda x: Encoding(collate(x)))))
    state = callback.state_dict()["ranks"][0]["sieve"]
    assert [len(rows["columns"]) for rows in state["ahead"]] == [3, 3]  # being trained on, ahead


def test_a_schedule_by_steps_that_nobody_knows_is_refused_at_once(tmp_path: Path) -> None:
    """Built for `estimated_stepping_batches`, which is -1 here, it would keep the rate constant."""

    class Stepped(Classifier):
        interval = "step"

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            assert self.trainer.estimated_stepping_batches in (-1, 20)
            decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return [optimizer], [{"scheduler": decay, "interval": self.interval}]

    callback = sieved()
    with pytest.raises(fs.ConfigError, match=r"ExponentialLR steps .*self\.sieved\.schedule"):
        trainer(tmp_path, callback).fit(Stepped(callback), callback(loader()))
    # Steps that are counted are known; so are epochs.
    callback = sieved(never())
    trainer(tmp_path, callback, max_epochs=-1, max_steps=20).fit(
        Stepped(callback), callback(loader())
    )
    by_epochs = Stepped(callback)
    by_epochs.interval = "epoch"
    trainer(tmp_path, callback).fit(by_epochs, callback(loader()))
    assert callback.sieve is not None
    assert callback.sieve.passes == 2


@pytest.mark.parametrize("accumulate", [1, 3])
def test_figures_are_written_as_often_as_lightning_writes(tmp_path: Path, accumulate: int) -> None:
    from lightning.pytorch.loggers import CSVLogger

    callback = sieved()
    host = trainer(
        tmp_path,
        callback,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=4,
        accumulate_grad_batches=accumulate,
    )
    host.fit(Classifier(callback), callback(loader()))
    text = (Path(host.logger.log_dir) / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    steps = sorted({int(r["step"]) for r in rows if r["sieve_stage"]})
    assert steps
    # As Lightning numbers them, from 0; every fourth, and the last where it stops.
    assert {s % 4 for s in steps} == {3}
    assert len(steps) == host.global_step // 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"val_check_interval": 0.5}, r"val_check_interval=0\.5"),
        ({"limit_train_batches": 0.5}, r"limit_train_batches=0\.5"),
        ({"overfit_batches": 4}, "overfit_batches=4"),
        ({"max_steps": 10}, r"max_epochs=2, max_steps=10\): nobody knows"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    tmp_path: Path, args: dict[str, Any], said: str
) -> None:
    callback = sieved()
    with pytest.raises(fs.ConfigError, match=said):
        trainer(tmp_path, callback, **args).fit(Classifier(callback), callback(loader()))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(fs.ConfigError, match="give either head="):
        SieveCallback()
    with pytest.raises(fs.ConfigError, match="id_key="):
        SieveCallback("infobatch")
    callback = sieved()
    with pytest.raises(fs.ConfigError, match=r"sieved\(loader\)"):
        trainer(tmp_path, callback).fit(Classifier(callback), loader())
    callback = sieved()
    with pytest.raises(fs.ConfigError, match="callbacks="):
        trainer(tmp_path).fit(Classifier(callback), callback(loader()))
    callback = sieved()
    with pytest.raises(fs.ConfigError, match="number of steps is not known"):
        trainer(tmp_path, callback).fit(Classifier(callback, decay=True), callback(iter([])))
    plain = trainer(tmp_path, ModelCheckpoint(tmp_path / "plain"), max_epochs=1)
    plain.fit(Classifier(), loader())
    with pytest.raises(fs.StateError, match="saved without a sieve"):
        trainer(tmp_path, callback).fit(
            Classifier(callback),
            callback(loader()),
            ckpt_path=plain.checkpoint_callback.best_model_path,
        )
    host = trainer(tmp_path, callback)
    host.strategy.__class__ = type("FSDPStrategy", (type(host.strategy),), {})
    with pytest.raises(fs.ConfigError, match=r"strategy=\.\.\.\) is FSDPStrategy"):
        host.fit(Classifier(callback), callback(loader()))


def test_a_copy_of_the_module_has_the_same_sieve(tmp_path: Path) -> None:
    callback = sieved()
    module = Classifier(callback)
    trainer(tmp_path, callback, max_epochs=1).fit(module, callback(loader()))
    assert copy.deepcopy(module).sieved is callback


class _Two:
    world_size = 2


def test_a_loader_must_be_sharded_over_devices() -> None:
    with pytest.raises(fs.ConfigError, match=r"DistributedSampler\(data, trainer.world_size"):
        check_sampler(_Two(), loader())
    check_sampler(_Two(), loader(sampler=DistributedSampler(ROWS, 2, 0)))


def test_scored_as_it_is_trained_on(tmp_path: Path) -> None:
    """In the trainer's precision, in eval mode, moved and changed by the transfer hooks; hooks
    and dropout draw the same random numbers as without scoring."""
    told = []

    def losses(module: Any, batch: Any) -> Tensor:
        told.append(
            (
                module.training,
                torch.is_autocast_enabled("cpu"),
                "noise" in batch,
                not torch.is_grad_enabled(),
            )
        )
        assert IDS not in batch
        return module.losses(batch)

    class Hooked(Classifier):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {**batch, "early": batch["labels"]}

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert "early" in batch
            return {**batch, "noise": torch.rand(2)}

        def training_step(self, batch: Any, index: int) -> Tensor:
            drawn.append(float(batch["noise"].sum()))
            return super().training_step(batch, index)

    runs = []
    for score in (True, False):
        drawn: list[float] = []
        told.clear()
        torch.manual_seed(3)
        callback = SieveCallback(closed() if score else never(), losses=losses, pool=48, group=2)
        trainer(tmp_path, callback, precision="bf16-mixed", max_epochs=1).fit(
            Hooked(callback), callback(loader())
        )
        runs.append(drawn)
        assert (len(told) > 1) == score  # the function is tried once, whatever comes
        assert set(told) <= {(False, True, True, True)}
    assert runs[0] == runs[1][: len(runs[0])]


def test_a_size_of_ones_own_goes_with_the_loss_of_ones_own(tmp_path: Path) -> None:
    def losses(module: Any, batch: Any) -> Tensor:
        return module.losses(batch)

    with pytest.raises(fs.ConfigError, match="goes with losses="):
        sieved(size=np.sqrt)
    callback = sieved(head=None, losses=losses, size=np.sqrt)
    trainer(tmp_path, callback, max_epochs=1).fit(Classifier(callback), callback(loader()))
    assert callback.sieve is not None
    window = callback.sieve.window
    assert len(window) > 100
    np.testing.assert_allclose(window.column("size"), np.sqrt(window.column("loss")), rtol=1e-5)
