"""Lightning with a sieve: off it changes nothing, on it filters, resumes, logs; Fabric's loop."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

import finesieve as fs
from finesieve import heads
from tests.conftest import Bag, make_batches

L = pytest.importorskip("lightning")

from lightning.pytorch.callbacks import (  # noqa: E402
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from finesieve.lightning import SieveCallback  # noqa: E402
from finesieve.rows import IDS, WEIGHTS  # noqa: E402

pytestmark = [  # Lightning's hints about workers and the like, and its own use of PyTorch
    pytest.mark.filterwarnings(
        "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
]
N, SIZE = 400, 8
ROWS = [{k: v[i] for k, v in batch.items()}
        for batch in make_batches(N, SIZE) for i in range(SIZE)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    width = max(len(r["input_ids"]) for r in rows)
    padded = {k: torch.stack([F.pad(r[k], (0, width - len(r[k]))) for r in rows])
              for k in ("input_ids", "attention_mask")}
    return {**padded, "labels": torch.stack([r["labels"] for r in rows])}


def loader(**more: Any) -> Any:
    return DataLoader(ROWS, collate_fn=collate, **{"batch_size": SIZE, **more})


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
        return self.sieved.reduce(losses, batch)

    def validation_step(self, batch: Any, index: int) -> None:
        losses = self.losses(batch)
        assert IDS not in batch
        loss = losses.mean() if self.sieved is None else self.sieved.reduce(losses, batch)
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
    return fs.methods.build("finesieve", 0, predictor_bits=12, starts=starts, cost_ratio=0.2,
                            train=0.4, score=0.6)


def closed() -> fs.Method:
    return by_hand({2: 0.1, 3: 0.3})


def never() -> fs.Method:
    return by_hand({})


def sieved(method: Any = None, **more: Any) -> SieveCallback:
    return SieveCallback(method if method is not None else closed(),
                         **{"head": heads.SingleLabel(), "pool": 48, "group": 2, **more})


def trainer(folder: Path, *callbacks: Any, **args: Any) -> Any:
    return L.Trainer(**{
        "accelerator": "cpu", "max_epochs": 2, "callbacks": list(callbacks), "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "default_root_dir": folder, **args})


def weights(module: Any) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


class Watch(Callback):
    """Learning rate of every optimizer step; epochs' numbers of batches."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.batches: list[int] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.batches.append(0)

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches[-1] += 1

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("method", ["full", "open"])
@pytest.mark.parametrize("more", [
    {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed", "gradient_clip_val": 0.1},
    {"max_steps": 37, "max_epochs": -1}, {"limit_train_batches": 7}])
def test_off_or_never_closing_is_lightning_to_the_bit(
    tmp_path: Path, method: str, more: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    plain = Classifier()
    watch = Watch()
    trainer(tmp_path, watch, **more).fit(plain, loader(shuffle="limit_train_batches" not in more))
    torch.manual_seed(1)
    callback = sieved(method if method == "full" else never())
    module = Classifier(callback)
    seen = Watch()
    host = trainer(tmp_path, callback, seen, **more)
    if method == "open" and "limit_train_batches" in more:
        return  # each epoch goes on where the one before ended: its own test
    host.fit(module, callback(loader(shuffle="limit_train_batches" not in more)))
    assert same(plain, module)
    assert watch.batches == seen.batches
    assert (callback.sieve is None) == (method == "full")


def test_the_schedule_of_open_gates_is_lightnings(tmp_path: Path) -> None:
    """The look-ahead puts no rate before its time: the progress is the trained batch's."""
    for accumulate, total in ((1, 100), (2, 50)):
        a, b = Watch(), Watch()
        plain, callback = Classifier(decay=True), sieved(never())
        trainer(tmp_path, a, accumulate_grad_batches=accumulate).fit(plain, loader())
        module = Classifier(callback, decay=True)
        trainer(tmp_path, b, callback, accumulate_grad_batches=accumulate).fit(
            module, callback(loader()))
        assert callback.steps == total
        assert len(a.rates) == total
        if accumulate == 1:
            assert a.rates == b.rates
            assert same(plain, module)
        assert b.rates[-1] == pytest.approx(0.01 / total, rel=1e-3)


def test_it_filters_logs_and_leaves_evaluation_alone(tmp_path: Path) -> None:
    callback, watch = sieved(), Watch()
    module = Classifier(callback, decay=True)
    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss")
    host = trainer(
        tmp_path, callback, watch, LearningRateMonitor("step"), best,
        EarlyStopping("val_loss", patience=9), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    host.fit(module, callback(loader()), loader())
    sieve = callback.sieve
    assert sieve is not None
    c = sieve.ledger.examples
    assert (sieve.stage, sieve.passes, c.drawn) == (3, 2, 2 * N)
    assert c.drawn == c.yielded + c.dropped
    assert 0 < c.scored < c.drawn
    assert sorted(i for ids in module.seen for i in ids) == sorted(
        {i for ids in module.seen for i in ids})
    assert sum(watch.batches) == host.global_step == len(module.seen) < 100
    assert callback.progress == 1.0
    assert watch.rates[0] == 0.01
    assert 0 < watch.rates[-1] < 0.001
    logged = host.callback_metrics
    assert logged["sieve_stage"] == 3.0
    assert 0.2 < logged["sieve_trained"] < 0.8
    assert logged["sieve_saved"] > 0.1
    text = (Path(host.logger.log_dir) / "metrics.csv").read_text()
    assert "sieve_scored" in text
    assert "lr-AdamW" in text
    assert Path(best.best_model_path).exists()
    before = c.drawn
    assert host.validate(module, loader(), verbose=False)[0]["val_loss"] < 0.69
    assert before == c.drawn


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("at", [
    pytest.param({"every_n_train_steps": 1}, id="steps"),
    pytest.param({"every_n_epochs": 1, "save_on_train_epoch_end": True}, id="epoch"),
    pytest.param({"every_n_epochs": 1, "save_on_train_epoch_end": False}, id="evaluation"),
])
@pytest.mark.parametrize("order", ["fixed", "generator"])
def test_resuming_ends_at_the_same_weights(
    tmp_path: Path, at: dict[str, Any], order: str
) -> None:
    def run(ckpt: Path | None) -> tuple[Classifier, Path]:
        torch.manual_seed(5)
        data = loader(shuffle=order != "fixed", generator=torch.Generator().manual_seed(4))
        callback = sieved()
        module = Classifier(callback, decay=True)
        folder = tmp_path / ("again" if ckpt else "whole")
        save = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", **at)
        host = trainer(tmp_path, callback, save)
        host.fit(module, callback(data), loader(), ckpt_path=ckpt, weights_only=True)
        return module, folder

    whole, folder = run(None)
    saved = sorted(folder.glob("*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    if "every_n_train_steps" in at:
        assert len(saved) == len(whole.seen)
        saved = [saved[i] for i in (0, 8, 20, len(saved) // 2 + 3, -1)]
    else:
        assert len(saved) == 2
    for path in saved:
        step = int(path.stem.split("=")[1])
        again, _ = run(path)
        assert again.seen == whole.seen[step:], path
        assert same(whole, again), path


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_pass_resumed_without_a_seed_has_every_example_once(tmp_path: Path) -> None:
    """Examples are told by an id of their own, which the order of drawing is not."""
    rows = [{**row, "own": torch.tensor(i)} for i, row in enumerate(ROWS)]

    def with_id(batch: list[Any]) -> Any:
        return {**collate(batch), "own": torch.stack([r["own"] for r in batch])}

    def run(seed: int, ckpt: Path | None = None) -> Classifier:
        torch.manual_seed(seed)
        callback = sieved(never(), id_key="own")
        module = Classifier(callback)
        save = ModelCheckpoint(tmp_path, every_n_train_steps=20, save_top_k=-1, filename="{step}")
        trainer(tmp_path, callback, save, max_epochs=1).fit(
            module, callback(loader(dataset=rows, shuffle=True, collate_fn=with_id)), ckpt_path=ckpt)
        return module

    def loader(dataset: Any, **more: Any) -> Any:
        return DataLoader(dataset, batch_size=SIZE, **more)

    whole, again = run(1), run(2, tmp_path / "step=20.ckpt")
    assert whole.seen[20:] == again.seen
    assert sorted(i for ids in whole.seen for i in ids) == list(range(N))
