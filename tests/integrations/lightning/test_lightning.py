"""Lightning with a sieve: off it changes nothing, on it filters, resumes, logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

import finesieve as fs
from finesieve.costs import watch
from finesieve.costs.timer import ProgramTimer

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger

from tests.integrations.lightning.kit import (
    QUIET,
    ROWS,
    SIZE,
    Classifier,
    N,
    closed,
    collate,
    loader,
    never,
    same,
    sieved,
    trainer,
)

pytestmark = QUIET


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


OFF_OR_OPEN = [
    (method, more)
    for more in (
        {"accumulate_grad_batches": 3},
        {"max_steps": 37, "max_epochs": -1},
        {"precision": "bf16-mixed", "gradient_clip_val": 0.1},
        {"limit_train_batches": 7},
    )
    for method in ("full", "open")
    if method == "full" or "limit_train_batches" not in more  # that epoch goes on: its own test
]


@pytest.mark.parametrize(("method", "more"), OFF_OR_OPEN)
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
            module, callback(loader())
        )
        assert callback.steps == total
        assert len(a.rates) == total
        if accumulate == 1:  # else an epoch's last step, of one batch, is half the way
            assert a.rates == b.rates
            assert same(plain, module)
        assert b.rates[-1] == pytest.approx(0.01 / total, rel=1e-3)


def test_it_filters_logs_and_leaves_evaluation_alone(tmp_path: Path) -> None:
    callback, watch = sieved(), Watch()
    module = Classifier(callback, decay=True)
    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss")
    host = trainer(
        tmp_path,
        callback,
        watch,
        LearningRateMonitor("step"),
        best,
        EarlyStopping("val_loss", patience=9),
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    host.fit(module, callback(loader()), loader())
    sieve = callback.sieve
    assert sieve is not None
    c = sieve.ledger.examples
    assert (sieve.stage, sieve.passes, c.drawn) == (3, 2, 2 * N)
    assert c.drawn == c.yielded + c.dropped
    assert 0 < c.scored < c.drawn
    assert sorted(i for ids in module.seen for i in ids) == sorted(
        {i for ids in module.seen for i in ids}
    )
    assert sum(watch.batches) == host.global_step == len(module.seen) < 100
    assert callback.progress == pytest.approx(1.0)
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


@pytest.mark.parametrize(
    "at",
    [
        pytest.param({"every_n_train_steps": 3}, id="steps"),
        pytest.param({"every_n_epochs": 1, "save_on_train_epoch_end": True}, id="epoch"),
        pytest.param({"every_n_epochs": 1, "save_on_train_epoch_end": False}, id="evaluation"),
    ],
)
@pytest.mark.parametrize("order", ["fixed", "generator"])
def test_resuming_ends_at_the_same_weights(tmp_path: Path, at: dict[str, Any], order: str) -> None:
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


@pytest.mark.parametrize("how", ["attached", "listed last"])
def test_a_callback_that_saves_after_a_batch_does_so_when_the_sieve_is_done_with_it(
    tmp_path: Path, how: str
) -> None:
    """Else a resumed run trains on that batch again."""

    class Saves(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == 20:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    def run(ckpt: Path | None = None) -> Classifier:
        torch.manual_seed(5)
        save = ModelCheckpoint(tmp_path, every_n_train_steps=20, save_top_k=-1, filename="{step}")
        others = (save,) if ckpt else (save, Saves())
        if how == "attached":
            host = trainer(tmp_path, *others)
            options = {"head": fs.heads.SingleLabel(), "pool": 48, "group": 2}
            callback = fs.attach(host, closed(), **options)
        else:
            callback = sieved()
            host = trainer(tmp_path, *others, callback)
        module = Classifier(callback)
        host.fit(module, callback(loader()), ckpt_path=ckpt, weights_only=True)
        return module

    whole = run()
    for name in ("step=20.ckpt", "saved.ckpt"):
        again = run(tmp_path / name)
        assert again.seen == whole.seen[20:]
        assert same(whole, again)


def test_a_module_without_forward_is_refused_with_what_to_do(tmp_path: Path) -> None:
    class Bare(Classifier):
        forward = LightningModule.forward

    callback = sieved()
    with pytest.raises(fs.ConfigError, match=r"Bare has no forward.*or give losses="):
        trainer(tmp_path, callback).fit(Bare(callback), callback(loader()))
    callback = sieved(head=None, losses=lambda module, batch: module.inner(batch))
    module = Bare(callback)
    assert callback.filters
    with pytest.raises(AttributeError, match="inner"):  # past the check
        trainer(tmp_path, callback).fit(module, callback(loader()))


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
        trainer(tmp_path, callback, save, max_epochs=1).fit(module, callback(data), ckpt_path=ckpt)
        return module

    whole, again = run(1), run(2, tmp_path / "step=20.ckpt")
    assert whole.seen[20:] == again.seen
    assert sorted(i for ids in whole.seen for i in ids) == list(range(N))


def test_steps_are_made_as_told_and_a_cut_epoch_goes_on(tmp_path: Path) -> None:
    """`limit_train_batches` and `max_steps` count what is trained on; no example comes twice."""
    callback, watch = sieved(fs.methods.registry.build("random", 0, share=0.4)), Watch()
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
        callback = sieved(fs.methods.registry.build("random", 0, share=0.4))
        save = ModelCheckpoint(saved, every_n_train_steps=23, save_top_k=-1, filename="{step}")
        host = trainer(tmp_path, callback, save, max_steps=stop, max_epochs=-1)
        module = Classifier(callback, decay=True)
        host.fit(module, callback(loader()), ckpt_path=ckpt)
        assert host.global_step == stop
        assert len(module.seen) == stop - (23 if ckpt else 0)


def test_evaluation_between_steps_is_no_training_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Classifier):
        def validation_step(self, batch: Any, index: int) -> None:
            now[0] += 1000.0

    now = [0.0]
    callback = sieved()
    monkeypatch.setattr(watch, "timer_on", lambda devices: ProgramTimer(lambda: now[0]))
    host = trainer(
        tmp_path,
        callback,
        Watch(),
        val_check_interval=5,
        limit_val_batches=2,
        num_sanity_val_steps=0,
    )
    host.fit(Slow(callback), callback(loader()), loader())
    assert callback.sieve is not None
    assert now[0] > 10_000.0
    assert callback.sieve.ledger.seconds["train"] == 0.0


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
        return self.sieved.loss(self.losses(batch), batch)

    def train_dataloader(self) -> Any:
        assert self.sieved is not None
        tokens = torch.stack([F.pad(r["input_ids"], (0, 12))[:6] for r in ROWS])
        labels = torch.stack([r["labels"] for r in ROWS])
        return self.sieved(DataLoader(torch.utils.data.TensorDataset(tokens, labels), SIZE))

    def configure_callbacks(self) -> Any:
        return [self.sieved]


def test_tuples_from_the_modules_own_loader(tmp_path: Path) -> None:
    def run(ckpt: Path | None = None, **more: Any) -> Pairs:
        module = Pairs(
            sieved(features=lambda batch: fs.Features(batch[0].numpy(), batch[1].numpy())),
            decay=True,
        )
        save = ModelCheckpoint(
            tmp_path / ("again" if ckpt else "whole"),
            filename="{step}",
            every_n_train_steps=9,
            save_top_k=-1,
        )
        trainer(tmp_path, save, reload_dataloaders_every_n_epochs=1, **more).fit(
            module, ckpt_path=ckpt
        )
        return module

    whole = run()
    assert whole.sieved is not None
    assert whole.sieved.sieve is not None
    assert whole.sieved.sieve.stage == 3
    assert whole.sieved.sieve.ledger.examples.drawn == 2 * N
    again = run(tmp_path / "whole" / "step=27.ckpt")
    assert again.seen == whole.seen[27:]
    assert same(whole, again)


def test_two_ranks_move_together_and_resume_each_its_own(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integrations.lightning.ranks", str(tmp_path)],
        cwd=root,
        timeout=240,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    lines = [x for x in done.stdout.splitlines() if x.startswith("rank ")]
    assert len(lines) == 2
    assert all(x.endswith(" stage 3 of 1, 2, 3; resumed alike") for x in lines), lines
