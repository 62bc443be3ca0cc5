"""Lightning with a sieve: off it changes nothing, on it filters, resumes, logs."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
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
from finesieve.rows import IDS  # noqa: E402

pytestmark = [  # Lightning's hints about workers and the like, and its own use of PyTorch
    pytest.mark.filterwarnings(
        "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
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
    work, drawn = sieve.work(), sieve.ledger.tokens.drawn
    saved = 1.0 - work.spent(*sieve.costs, of=drawn)  # a model so small may lose: by the clock
    assert logged["sieve_saved"] == pytest.approx(saved, abs=0.1)
    assert work.spent(0.2, 1.0, of=drawn) < 0.9
    text = (Path(host.logger.log_dir) / "metrics.csv").read_text()
    assert "sieve_scored" in text
    assert "lr-AdamW" in text
    assert Path(best.best_model_path).exists()
    before = c.drawn
    assert host.validate(module, loader(), verbose=False)[0]["val_loss"] < 0.69
    assert before == c.drawn


@pytest.mark.parametrize("at", [
    pytest.param({"every_n_train_steps": 3}, id="steps"),
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
        folder = tmp_path / (f"from {ckpt.stem}" if ckpt else "whole")
        save = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", **at)
        host = trainer(tmp_path, callback, save)
        host.fit(module, callback(data), loader(), ckpt_path=ckpt, weights_only=True)
        return module, folder

    whole, folder = run(None)
    saved = sorted(folder.glob("*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    if "every_n_train_steps" in at:
        assert len(saved) == len(whole.seen) // 3
        saved = [saved[0], saved[4], saved[-4]]
    else:
        assert len(saved) == 2
    for path in saved:
        step = int(path.stem.split("=")[1])
        again, _ = run(path)
        assert again.seen == whole.seen[step:], path
        assert same(whole, again), path


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
        data = DataLoader(rows, SIZE, shuffle=True, collate_fn=with_id)
        trainer(tmp_path, callback, save, max_epochs=1).fit(
            module, callback(data), ckpt_path=ckpt)
        return module

    whole, again = run(1), run(2, tmp_path / "step=20.ckpt")
    assert whole.seen[20:] == again.seen
    assert sorted(i for ids in whole.seen for i in ids) == list(range(N))


def test_steps_are_made_as_told_and_a_cut_epoch_goes_on(tmp_path: Path) -> None:
    """`limit_train_batches` and `max_steps` count what is trained on; no example comes twice."""
    callback, watch = sieved(fs.methods.build("random", 0, share=0.4)), Watch()
    module = Classifier(callback, decay=True)
    host = trainer(tmp_path, callback, watch, limit_train_batches=7, max_epochs=6)
    host.fit(module, callback(loader()))
    assert watch.batches == [7] * 6
    assert callback.steps == 42
    assert watch.rates[-1] == pytest.approx(0.01 / 42)
    assert callback.sieve is not None
    assert callback.sieve.passes >= 1
    ids = [i for batch in module.seen for i in batch]
    assert len(ids) == len(set(ids))
    with pytest.raises(fs.ConfigError, match="give SieveCallback"):
        _ = callback.progress

    saved = tmp_path / "steps"
    for stop, ckpt in ((23, None), (61, saved / "step=23.ckpt")):
        callback = sieved(fs.methods.build("random", 0, share=0.4))
        save = ModelCheckpoint(saved, every_n_train_steps=23, save_top_k=-1, filename="{step}")
        host = trainer(tmp_path, callback, save, max_steps=stop, max_epochs=-1)
        module = Classifier(callback, decay=True)
        host.fit(module, callback(loader()), ckpt_path=ckpt)
        assert host.global_step == stop
        assert len(module.seen) == stop - (23 if ckpt else 0)


def test_evaluation_between_steps_is_no_training_time(tmp_path: Path) -> None:
    class Slow(Classifier):
        def validation_step(self, batch: Any, index: int) -> None:
            now[0] += 1000.0

    now = [0.0]
    callback = sieved()
    callback._device_clock = lambda: now[0]
    host = trainer(tmp_path, callback, Watch(), val_check_interval=5, limit_val_batches=2,
                   num_sanity_val_steps=0)
    host.fit(Slow(callback), callback(loader()), loader())
    assert callback.sieve is not None
    assert now[0] > 10_000.0
    assert callback.sieve.ledger.seconds["train"] == 0.0


def test_scored_as_it_is_trained_on(tmp_path: Path) -> None:
    """In the trainer's precision, in eval mode, moved and changed by the transfer hooks; hooks
    and dropout draw the same random numbers as without scoring."""
    told = []

    def losses(module: Any, batch: Any) -> Tensor:
        told.append((module.training, torch.is_autocast_enabled("cpu"), "noise" in batch,
                     torch.is_inference_mode_enabled()))
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
            Hooked(callback), callback(loader()))
        runs.append(drawn)
        assert bool(told) == score
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


class Pairs(Classifier):
    """Batches that are tuples, given out by the module's own `train_dataloader`."""

    def losses(self, batch: Any) -> Tensor:
        tokens, labels = fs.inputs(batch)
        return F.cross_entropy(self(tokens), labels, reduction="none")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.bag(tokens, torch.ones_like(tokens))

    def training_step(self, batch: Any, index: int) -> Tensor:
        assert self.sieved is not None
        self.seen.append(batch[-1].ids.tolist())
        return self.sieved.reduce(self.losses(batch), batch)

    def train_dataloader(self) -> Any:
        assert self.sieved is not None
        tokens = torch.stack([F.pad(r["input_ids"], (0, 12))[:6] for r in ROWS])
        labels = torch.stack([r["labels"] for r in ROWS])
        return self.sieved(DataLoader(torch.utils.data.TensorDataset(tokens, labels), SIZE))

    def configure_callbacks(self) -> Any:
        return [self.sieved]


def test_tuples_from_the_modules_own_loader(tmp_path: Path) -> None:
    def run(ckpt: Path | None = None, **more: Any) -> Pairs:
        module = Pairs(sieved(features=lambda batch: fs.Features(
            batch[0].numpy(), batch[1].numpy())), decay=True)
        save = ModelCheckpoint(tmp_path / ("again" if ckpt else "whole"), filename="{step}",
                               every_n_train_steps=9, save_top_k=-1)
        trainer(tmp_path, save, reload_dataloaders_every_n_epochs=1, **more).fit(
            module, ckpt_path=ckpt)
        return module

    whole = run()
    assert whole.sieved is not None
    assert whole.sieved.sieve is not None
    assert whole.sieved.sieve.stage == 3
    assert whole.sieved.sieve.ledger.examples.drawn == 2 * N
    again = run(tmp_path / "whole" / "step=27.ckpt")
    assert again.seen == whole.seen[27:]
    assert same(whole, again)


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


@pytest.mark.parametrize(("args", "said"), [
    ({"val_check_interval": 0.5}, r"val_check_interval=0\.5"),
    ({"limit_train_batches": 0.5}, r"limit_train_batches=0\.5"),
    ({"overfit_batches": 4}, "overfit_batches=4"),
])
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
    callback = sieved()
    with pytest.raises(fs.ConfigError, match=r"sieved\(loader\)"):
        trainer(tmp_path, callback).fit(Classifier(callback), loader())
    callback = sieved()
    with pytest.raises(fs.ConfigError, match="callbacks="):
        trainer(tmp_path).fit(Classifier(callback), callback(loader()))
    callback = sieved()
    with pytest.raises(fs.ConfigError, match="number of steps is not known"):
        trainer(tmp_path, callback).fit(
            Classifier(callback, decay=True), callback(iter([])))
    plain = trainer(tmp_path, ModelCheckpoint(tmp_path / "plain"), max_epochs=1)
    plain.fit(Classifier(), loader())
    with pytest.raises(fs.StateError, match="saved without a sieve"):
        trainer(tmp_path, callback).fit(Classifier(callback), callback(loader()),
                                        ckpt_path=plain.checkpoint_callback.best_model_path)
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
    callback = sieved()
    callback._trainer = _Two()
    with pytest.raises(fs.ConfigError, match=r"DistributedSampler\(data, trainer.world_size"):
        callback._check_sampler(loader())
    callback._check_sampler(loader(sampler=DistributedSampler(ROWS, 2, 0)))


def test_two_ranks_move_together_and_resume_each_its_own(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.lightning_ranks", str(tmp_path)], cwd=root, timeout=240,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    lines = [x for x in done.stdout.splitlines() if x.startswith("rank ")]
    assert len(lines) == 2
    assert all(x.endswith(" stage 3 of 1, 2, 3; resumed alike") for x in lines), lines
