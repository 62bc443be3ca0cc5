"""Comparing the trainer's loss on every open batch waits for no GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.batches.device import to_device
from finesieve.integrations.transformers.scale import LossScale
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
