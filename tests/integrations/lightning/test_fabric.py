"""A loop with Lightning's Fabric: it needs nothing but the sieve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve.batches.carry import IDS
from tests.conftest import Bag

L = pytest.importorskip("lightning")

from tests.integrations.lightning.kit import QUIET, N, closed, loader, never, same  # noqa: E402

pytestmark = QUIET


def fabric_run(folder: Path, stop: int | None, ckpt: bool = False, **more: Any) -> Any:
    """A Fabric loop of two passes, two batches a step; saved after `stop` batches."""
    fabric = L.Fabric(accelerator="cpu", devices=1, **more)
    bag = Bag(dropout=0.0)
    model, optimizer = fabric.setup(bag, torch.optim.AdamW(bag.parameters(), 0.01))
    data = fabric.setup_dataloaders(loader())
    options = fs.SieveOptions(pool=48, group=2, autocast=fabric.autocast)
    sieve = fs.Sieve(model.module, closed(), total=2 * N, options=options)
    state = {"model": model, "optimizer": optimizer, "sieve": sieve}
    if ckpt:
        fabric.load(folder / "state.ckpt", state)
    count, seen = 0, []
    for _ in range(sieve.passes, 2):
        for batch in sieve(data):
            count += 1
            accumulating = count % 2 == 1
            with fabric.no_backward_sync(model, enabled=accumulating):
                bare = fs.inputs(batch)
                logits = model(bare["input_ids"], bare["attention_mask"])
                losses = F.cross_entropy(logits.float(), bare["labels"], reduction="none")
                fabric.backward(sieve.loss(losses, batch) / 2)
            seen.append(batch[IDS].tolist())
            if not accumulating:
                optimizer.step()
                optimizer.zero_grad()
            if count == stop:
                fabric.save(folder / "state.ckpt", state)
    return model.module, seen, sieve


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fabric_needs_nothing_of_its_own(tmp_path: Path, precision: Any) -> None:
    whole, seen, sieve = fabric_run(tmp_path, 24, precision=precision)
    assert sieve.stage == 3
    assert sieve.ledger.examples.drawn == 2 * N
    assert len(seen) < 90
    again, rest, _ = fabric_run(tmp_path, None, ckpt=True, precision=precision)
    assert rest == seen[24:]
    assert same(whole, again)


@pytest.mark.parametrize("method", ["full", "open"])
def test_off_or_never_closing_is_the_plain_loop_to_the_bit(method: str) -> None:
    ends = []
    for sieved in (False, True):
        torch.manual_seed(0)
        fabric = L.Fabric(accelerator="cpu", devices=1)
        bag = Bag(dropout=0.2)
        model, optimizer = fabric.setup(bag, torch.optim.AdamW(bag.parameters(), 0.01))
        data = fabric.setup_dataloaders(loader())
        options = fs.SieveOptions(autocast=fabric.autocast)
        chosen = never() if method == "open" else method
        sieve = fs.Sieve(model.module, chosen, total=N, options=options)
        for batch in sieve(data) if sieved else data:
            bare = fs.inputs(batch)
            logits = model(bare["input_ids"], bare["attention_mask"])
            losses = F.cross_entropy(logits, bare["labels"], reduction="none")
            fabric.backward(sieve.loss(losses, batch) if sieved else losses.mean())
            optimizer.step()
            optimizer.zero_grad()
        ends.append(model.module)
    assert same(*ends)
