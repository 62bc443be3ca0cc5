"""What the tests of Lightning share: data, a module, a sieve whose gates close at fixed places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

import finesieve as fs
from finesieve import heads
from tests.conftest import Bag, make_batches

L = pytest.importorskip("lightning")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from finesieve.batches.carry import IDS  # noqa: E402
from finesieve.integrations.lightning import SieveCallback  # noqa: E402

QUIET = [  # Lightning's hints about workers and the like, and its own use of PyTorch
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]
N, SIZE = 400, 8
ROWS = [{k: v[i] for k, v in batch.items()} for batch in make_batches(N, SIZE) for i in range(SIZE)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    width = max(len(r["input_ids"]) for r in rows)
    padded = {
        k: torch.stack([F.pad(r[k], (0, width - len(r[k]))) for r in rows])
        for k in ("input_ids", "attention_mask")
    }
    return {**padded, "labels": torch.stack([r["labels"] for r in rows])}


def loader(**more: Any) -> Any:
    return DataLoader(ROWS, **{"collate_fn": collate, "batch_size": SIZE, **more})


class Classifier(L.LightningModule):
    """A plain Lightning module; with `sieved` its two lines are the sieve's."""

    def __init__(self, sieved: SieveCallback | None = None, decay: bool = False) -> None:
        super().__init__()
        self.bag, self.sieved, self.decay = Bag(dropout=0.0), sieved, decay
        self.seen: list[list[int]] = []

    def forward(self, **kind: Tensor) -> Tensor:
        return self.bag(**kind)

    def losses(self, batch: Any) -> Tensor:
        bare = fs.inputs(batch)
        logits = self(input_ids=bare["input_ids"], attention_mask=bare["attention_mask"])
        return F.cross_entropy(logits, bare["labels"], reduction="none")

    def training_step(self, batch: Any, index: int) -> Tensor:
        losses = self.losses(batch)
        if self.sieved is None:
            return losses.mean()
        self.seen.append(batch[IDS].tolist() if IDS in batch else [])
        return self.sieved.loss(losses, batch)

    def validation_step(self, batch: Any, index: int) -> None:
        losses = self.losses(batch)
        assert IDS not in batch
        loss = losses.mean() if self.sieved is None else self.sieved.loss(losses, batch)
        self.log("val_loss", loss)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        if not self.decay:
            return optimizer
        steps = 100 if self.sieved is None else self.sieved.steps
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        if self.sieved is None:
            return [optimizer], [{"scheduler": decay, "interval": "step"}]
        return [optimizer], [self.sieved.schedule(decay)]


def by_hand(starts: dict[int, float]) -> fs.Method:
    """Ours, with gates that close at fixed places; the clock decides nothing."""
    return fs.methods.registry.build(
        "finesieve", 0, predictor_bits=12, starts=starts, cost_ratio=0.2, train=0.4, score=0.6
    )


def closed() -> fs.Method:
    return by_hand({2: 0.1, 3: 0.3})


def never() -> fs.Method:
    return by_hand({})


def sieved(method: Any = None, **more: Any) -> SieveCallback:
    return SieveCallback(
        method if method is not None else closed(),
        **{"head": heads.SingleLabel(), "pool": 48, "group": 2, **more},
    )


def trainer(folder: Path, *callbacks: Any, **args: Any) -> Any:
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "callbacks": list(callbacks),
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
            "default_root_dir": folder,
            **args,
        }
    )


def weights(module: Any) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))
