"""Lightning, detached: at once or in mid-training, all data come and the rate ends at its end."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import finesieve as fs
from finesieve import heads

pytest.importorskip("lightning")

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from finesieve.batches.carry import rides
from finesieve.integrations.lightning import SieveCallback
from tests.integrations.lightning.kit import (
    QUIET,
    ROWS,
    SIZE,
    Classifier,
    N,
    closed,
    collate,
    loader,
    same,
    sieved,
    trainer,
)

pytestmark = QUIET


class Detaches(Classifier):
    """Detaches its sieve with a step, and keeps what it was given, epoch by epoch."""

    def __init__(self, callback: SieveCallback, at: int, own: bool = False) -> None:
        super().__init__(callback, decay=True)
        self.at, self.own, self.count = at, own, 0
        self.epochs: list[list[tuple[bool, list[tuple[int, ...]]]]] = []
        self.rates: list[float] = []
        self.kept = 0

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: Any, index: int) -> Tensor:
        assert self.sieved is not None
        texts = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        rows = [tuple(ids[: int(mask.sum())].tolist()) for ids, mask in texts]
        if not self.epochs:  # resumed in the middle of one
            self.epochs.append([])
        self.epochs[-1].append((rides(batch), rows))
        if self.own and not rides(batch):  # the sieve need not be asked any more
            return self.losses(batch).mean()
        return self.sieved.loss(self.losses(batch), batch)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, *_: Any) -> None:
        assert self.sieved is not None
        self.count += 1
        self.kept = max(self.kept, len(self.sieved._stream.ahead))
        if self.count == self.at:
            self.sieved.detach()


class After(Callback):
    """Stands behind the sieve among the callbacks."""

    def __init__(self) -> None:
        self.left = 0

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        self.left += 1


def ids(epoch: list[tuple[bool, list[tuple[int, ...]]]]) -> list[tuple[int, ...]]:
    return [row for _, rows in epoch for row in rows]


ROWS_AS_GIVEN = sorted(
    tuple(row["input_ids"][: int(row["attention_mask"].sum())].tolist()) for row in ROWS
)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("at", [12, 28])  # in the first pass, or in the second
def test_in_mid_training_all_data_come_from_the_next_pass_on(
    tmp_path: Path, at: int, own: bool
) -> None:
    callback, after = sieved(), After()
    module = Detaches(callback, at, own)
    host = trainer(tmp_path, callback, after, max_epochs=5, log_every_n_steps=1)
    torch.manual_seed(3)
    host.fit(module, callback(loader(shuffle=True)))
    kinds = [{riding for riding, _ in epoch} for epoch in module.epochs]
    filtered = sum(kind == {True} for kind in kinds)
    assert kinds == [{True}] * filtered + [{False}] * (5 - filtered)
    assert sum(len(epoch) for epoch in module.epochs[:filtered]) >= at  # to the end of its pass
    assert sum(len(epoch) for epoch in module.epochs[: filtered - 1]) < at
    for epoch in module.epochs[filtered:]:
        assert sorted(ids(epoch)) == ROWS_AS_GIVEN
    assert ids(module.epochs[-1]) != ids(module.epochs[-2])  # shuffled anew
    assert module.kept <= 2  # what Lightning has read ahead, and not the epoch
    assert module.rates == sorted(module.rates, reverse=True)
    assert module.rates[-1] == pytest.approx(0.01 / (N // SIZE * 5), rel=1.0)
    assert callback.progress == pytest.approx(1.0)
    assert callback not in host.callbacks
    assert after.left == 1  # it was not passed over as the sieve left


def test_it_logs_no_more(tmp_path: Path) -> None:
    callback = sieved()
    logged: list[int] = []

    class Sees(Detaches):
        def log_dict(self, figures: Any, *_: Any, **more: Any) -> None:
            assert "sieve_stage" in figures
            logged.append(self.count + 1)  # the sieve's hook comes before the module's

    module = Sees(callback, 10)
    host = trainer(tmp_path, callback, max_epochs=2, log_every_n_steps=1)
    host.fit(module, callback(loader()))
    assert logged == list(range(1, 11))
    assert module.count > 50


def test_where_batches_are_counted(tmp_path: Path) -> None:
    """A pass goes over several epochs: it is filtered to its end, and others follow as they are."""
    callback = sieved(fs.methods.registry.build("random", 0, share=0.6), total=3 * N)
    module = Detaches(callback, 5)
    host = trainer(tmp_path, callback, limit_train_batches=20, max_epochs=6)
    host.fit(module, callback(loader()))
    assert [len(epoch) for epoch in module.epochs] == [20] * 6
    riding = [kind for epoch in module.epochs for kind, _ in epoch]
    first = riding.index(False)
    assert 20 < first < 100
    assert not any(riding[first:])
    plain = [row for epoch in module.epochs for kind, rows in epoch if not kind for row in rows]
    assert sorted(plain[:N]) == ROWS_AS_GIVEN
    assert module.kept <= 2


@pytest.mark.parametrize("order", ["fixed", "generator"])
def test_resumed_after_it_was_detached_it_ends_at_the_same_weights(
    tmp_path: Path, order: str
) -> None:
    def run(at: int, ckpt: Path | None) -> tuple[Detaches, Path]:
        torch.manual_seed(5)
        data = loader(shuffle=order != "fixed", generator=torch.Generator().manual_seed(4))
        callback = sieved()
        module = Detaches(callback, at)
        folder = tmp_path / (f"from {ckpt.stem}" if ckpt else "whole")
        save = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", every_n_train_steps=7)
        host = trainer(tmp_path, callback, save, max_epochs=3)
        host.fit(module, callback(data), ckpt_path=ckpt, weights_only=True)
        return module, folder

    whole, folder = run(10, None)
    first = len(whole.epochs[0])
    assert len(whole.epochs[1]) == N // SIZE
    saved = sorted(folder.glob("*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    steps = [int(path.stem.split("=")[1]) for path in saved]
    # In the filtered pass after it was told, in the first pass as it comes, and in the second.
    cuts = [
        next(s for s in steps if s > 10),
        next(s for s in steps if s > first),
        [s for s in steps if s < first + 2 * N // SIZE - 1][-1],
    ]
    assert cuts[0] < first
    given = [ids([batch]) for epoch in whole.epochs for batch in epoch]
    for cut in cuts:
        again, _ = run(0, folder / f"step={cut}.ckpt")
        assert [ids([batch]) for epoch in again.epochs for batch in epoch] == given[cut:], cut
        for a, b in zip(whole.parameters(), again.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def plain(tmp_path: Path, times: int = 1) -> Classifier:
    torch.manual_seed(1)
    module = Classifier(decay=True)
    for _ in range(times):
        trainer(tmp_path).fit(module, loader())
    return module


def test_before_training_whoever_put_it_into_the_trainer(tmp_path: Path) -> None:
    """By the trainer's constructor, which the callback does not know of, or by `attach`."""
    for by_attach in (False, True):
        torch.manual_seed(1)
        if by_attach:
            host = trainer(tmp_path)
            callback = fs.attach(host, closed(), head=heads.SingleLabel())
        else:
            callback = sieved()
            host = trainer(tmp_path, callback)
        callback.detach()
        module = Classifier(callback, decay=True)
        host.fit(module, callback(loader()))
        assert same(module, plain(tmp_path))
        assert callback not in host.callbacks
        assert callback.sieve is None


def test_after_training_the_next_one_is_plain_and_it_may_come_back(tmp_path: Path) -> None:
    callback = sieved()
    module = Classifier(callback, decay=True)
    host = trainer(tmp_path, callback)
    host.fit(module, callback(loader()))
    first = callback.sieve
    callback.detach()
    torch.manual_seed(1)
    module = Classifier(callback, decay=True)
    trainer(tmp_path).fit(module, callback(loader()))
    assert same(module, plain(tmp_path))
    assert callback.sieve is first
    back = Classifier(callback, decay=True)
    trainer(tmp_path, callback).fit(back, callback(loader()))
    assert callback.sieve is not first
    assert callback.sieve is not None
    assert callback.sieve.stage == 3


def test_a_training_that_ends_in_an_error_is_left_too(tmp_path: Path) -> None:
    class Fails(Detaches):
        def training_step(self, batch: Any, index: int) -> Tensor:
            if self.count == 12:
                raise RuntimeError("in mid-training")
            return super().training_step(batch, index)

    callback = sieved()
    host = trainer(tmp_path, callback)
    with pytest.raises(RuntimeError, match="in mid-training"):
        host.fit(Fails(callback, 10), callback(loader()))
    assert callback not in host.callbacks


class Tagger(Classifier):
    """Labels for every token."""

    def __init__(self, callback: SieveCallback) -> None:
        super().__init__(callback)
        self.table = torch.nn.Embedding(100, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.table(input_ids)
        return logits

    def losses(self, batch: Any) -> Tensor:
        bare = fs.inputs(batch)
        logits = self(bare["input_ids"], bare["attention_mask"])
        return heads.Tokens().losses(logits, bare)


def test_insights_know_of_tokens_and_targets(tmp_path: Path) -> None:
    """The scorer is the task's own, on batches prepared as the training step sees them."""

    def tags(rows: Any) -> Any:
        batch = collate(rows)
        labels = torch.where(batch["attention_mask"] > 0, batch["input_ids"] % 5, -100)
        return {**batch, "labels": labels}

    callback = sieved(head=heads.Tokens())
    host = trainer(tmp_path, callback, max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        host.fit(Tagger(callback), callback(loader(collate_fn=tags)))
    found = callback.insights
    lengths = [int(ROWS[i]["attention_mask"].sum()) for i in found["id"].tolist()]
    assert len(lengths) > N // 2
    assert found["tokens"].tolist() == lengths
    assert found["targets"].tolist() == lengths
