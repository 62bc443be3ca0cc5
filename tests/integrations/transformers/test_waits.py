"""Comparing the trainer's loss on every open batch waits for no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve.batches.carry import IDS, RIDING, inputs
from finesieve.batches.device import to_device
from finesieve.integrations.transformers.loader import FilteredLoader
from finesieve.integrations.transformers.loss import TrainedLoss
from finesieve.integrations.transformers.scale import LossScale
from tests.conftest import make_batches
from tests.far import FAR, far


def host() -> Any:
    args = SimpleNamespace(
        world_size=1,
        average_tokens_across_devices=True,
        torch_compile=False,
        bf16=False,
        fp16=False,
    )
    return SimpleNamespace(
        args=args, current_gradient_accumulation_steps=2, model_accepts_loss_kwargs=True
    )


@pytest.mark.parametrize("head", [fs.heads.SingleLabel(), fs.heads.Tokens()])
def test_another_loss_is_noticed_without_a_wait(
    monkeypatch: pytest.MonkeyPatch, head: fs.heads.Head
) -> None:
    with far(monkeypatch) as device:
        scale = LossScale(host(), head)
        shape = (4,) if isinstance(head, fs.heads.SingleLabel) else (4, 6)
        labels = to_device(torch.ones(shape, dtype=torch.long), FAR)
        each = to_device(torch.tensor([0.5, 1.0, 1.5, 2.0]), FAR)
        for _ in range(8):
            scale.compare(each.mean(), each, {"labels": labels}, labels.numel() * 2)
        scale.check()
        assert device.waits == []
        assert scale.is_share is None  # sent for, and read the next time
        scale.check()  # losses of several batches are read at once
        assert device.waits == []
        for _ in range(8):
            scale.compare(each.mean(), each, {"labels": labels}, labels.numel() * 2)
        scale.check()
        assert device.waits == []
        assert scale.is_share is False
        scale.compare(each.mean() * 1.01, each, {"labels": labels}, labels.numel() * 2)
        with pytest.raises(fs.ConfigError, match=r"loss is 1\.01 times"):
            scale.check(wait=True)  # before anything is weighed
        assert device.waits


class Some(fs.Gate):
    """Keeps every third example, and says that it was by chance."""

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        kept = offer.ids % 3 == 0
        return fs.Verdict(kept, np.where(offer.ids % 2 == 0, 0.25, 0.5))


class Inner:
    """A loader of Accelerate's, whose batches go to the device."""

    device: Any = FAR
    dataset: Any = None
    generator: Any = None

    def __iter__(self) -> Iterator[Any]:
        yield from make_batches(40)

    def get_sampler(self) -> Any:
        return None


def test_a_step_on_one_or_two_survivors_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a batch is a filler is known before it goes to the device."""
    method = fs.Method("some", Some(), fs.Open(), fs.Fixed({3: 0.0}))
    options = fs.SieveOptions(batch_size=2, pool=16, clock=lambda: 0.0)
    sieve = fs.Sieve(method=method, options=options)
    trainer = SimpleNamespace(**vars(host()), model=None, compute_loss_func=None)
    trainer.args.gradient_accumulation_steps = 4
    attached = SimpleNamespace(
        trainer=trainer,
        sieve=sieve,
        filters=True,
        epochs=None,
        begun={},
        yielded=lambda batch: batch,
        folded=lambda batch: batch,
        drawn=lambda batches: batches,
    )
    with far(monkeypatch) as device:

        def losses(model: Any, batch: Any) -> Any:
            return batch["labels"] * 0.5 + 0.5

        loss = TrainedLoss(trainer, lambda: None, None, losses, sft=False, own=True, watches=False)
        found, waits = [], []
        for batch in FilteredLoader(attached, Inner(), None):
            carried = {key: batch[key] for key in RIDING if key in batch}
            assert carried[IDS].is_cuda
            found.append(loss(sieve, None, inputs(batch), carried, None)[0])
            waits.append(len(device.waits))
    assert waits == [0] * 7 + [1]  # for the last losses, at the end of the pass
    assert len(found) == 8  # of 14 survivors seven batches, and a filler
    assert [float(x.near) == 0.0 for x in found] == [False] * 7 + [True]
