"""The Trainer, detached in mid-training: the pass under way has its weights, the next are plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import finesieve as fs

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback  # noqa: E402

from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    SMALL,
    Data,
    closed,
    same,
    texts,
    trainer,
    weights,
)

N, SIZE = 304, 8
METHOD = fs.Manual({2: 0.0}, train=0.4, cost_ratio=0.2)


class SeesForSequenceClassification(BertForSequenceClassification):
    """Keeps the texts of each training batch, and takes whatever it is given as a keyword."""

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None, **more: Any) -> Any:
        assert not [key for key in more if key.startswith("sieve")]
        if self.training:
            rows = zip(input_ids, attention_mask, strict=True)
            self.seen.append([tuple(ids[: int(mask.sum())].tolist()) for ids, mask in rows])
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def net(seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    made = SeesForSequenceClassification(BertConfig(**SMALL, num_labels=2, **more))
    made.seen = []
    return made


class Detaches(TrainerCallback):
    """Detaches with a step; keeps the rates, the logs, and how many batches each pass had."""

    def __init__(self, at: int) -> None:
        self.at, self.attached = at, None
        self.rates: list[float] = []
        self.logged: list[tuple[int, bool]] = []
        self.ends: list[tuple[int, int, float]] = []  # step, batches, epoch
        self.model: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.rates.append(kw["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        if state.global_step == self.at and self.attached is not None:
            self.attached.detach()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
        if "loss" in logs:
            self.logged.append((state.global_step, "sieve_stage" in logs))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.ends.append((state.global_step, len(self.model.seen), state.epoch))


def run(
    folder: Path, at: int, seed: int = 0, checkpoint: Path | None = None, **more: Any
) -> tuple[Any, Detaches, Any]:
    """Trains with a sieve that is detached after a step; returns trainer, callback and handle."""
    detaches, model = Detaches(at), net(seed)
    options = {
        "data": Data(N),
        "num_train_epochs": 3,
        "gradient_accumulation_steps": 1,
        "callbacks": [detaches],
        "logging_steps": 1,
        **more,
    }
    host = trainer(folder, model, **options)
    attached = hf.attach(host, METHOD, **OPTIONS)
    detaches.attached, detaches.model = attached, model
    host.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return host, detaches, attached


@pytest.mark.parametrize("every", [1, 2])
def test_the_next_passes_are_plain_and_the_trainer_ends_where_it_should(
    tmp_path: Path, every: int
) -> None:
    host, told, attached = run(tmp_path, 10, gradient_accumulation_steps=every)
    (first, batches, epoch), *others = told.ends
    assert epoch == pytest.approx(1.0)
    assert first > 10
    assert [(step - first, n - batches) for step, n, _ in others] == [
        (38 // every * i, 38 * i) for i in (1, 2)
    ]
    assert [epoch for *_, epoch in others] == pytest.approx([2.0, 3.0])
    plain = host.model.seen[batches:]
    assert {len(rows) for rows in plain} == {SIZE}
    everything = sorted(tuple(ids.tolist()) for ids in texts(N))
    for part in (plain[:38], plain[38:]):
        assert sorted(row for rows in part for row in rows) == everything
    assert host.state.global_step == first + 2 * 38 // every
    assert host.state.max_steps == host.state.global_step
    assert told.rates[3:] == sorted(told.rates[3:], reverse=True)
    assert 0.0 < told.rates[-1] < 0.02 * max(told.rates)
    assert told.logged == [(i, i < 10) for i in range(1, host.state.global_step + 1)]
    assert attached.sieve.progress == pytest.approx(1.0)


def test_the_pass_under_way_has_its_weights(tmp_path: Path) -> None:
    """It ends as if the sieve had stayed; with weights, which plain training on them has not."""
    ends = []
    for at in (0, 3):
        host, _, attached = run(
            tmp_path, at, num_train_epochs=1, lr_scheduler_type="constant", warmup_steps=0
        )
        assert attached.sieve.detached == (at == 3)
        ends.append(weights(host))
    assert same(*ends)


def test_the_loss_of_a_plain_batch_is_the_trainers_own(tmp_path: Path) -> None:
    """To the bit: two passes of which the first trains nothing, against the trainer alone."""

    class Turns(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            kw["optimizer"].param_groups[0]["lr"] = 3e-3 if state.epoch > 0.99 else 0.0

    ends = []
    for method in (None, METHOD):
        made = net(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        args = {"gradient_accumulation_steps": 1, "callbacks": [Turns()], "data": Data(N)}
        host = trainer(tmp_path, made, **args)
        if method is not None:
            told = Detaches(1)
            told.attached, told.model = hf.attach(host, method, **OPTIONS), made
            host.add_callback(told)
        host.optimizer = torch.optim.SGD(host.model.parameters(), lr=0.0)
        host.train()
        assert host.state.global_step > 38 + 10
        ends.append(weights(host))
    assert same(*ends)


def test_the_trainer_is_given_back_when_it_has_trained(tmp_path: Path) -> None:
    detaches = Detaches(3)
    host = trainer(tmp_path, net(), Data(N), callbacks=[detaches], num_train_epochs=2)
    own = {name: getattr(host, name) for name in hf.HOOKS}
    skips = host.args.ignore_data_skip
    before = list(host.callback_handler.callbacks)
    attached = hf.attach(host, METHOD, **OPTIONS)
    detaches.attached, detaches.model = attached, host.model
    host.train()
    assert {name: getattr(host, name) for name in own} == own
    assert host.callback_handler.callbacks == before
    assert host.args.ignore_data_skip == skips
    sieve, batches = attached.sieve, len(host.model.seen)
    host.train()
    assert attached.sieve is sieve
    assert len(host.model.seen) == batches + 2 * 38


def test_it_is_given_back_after_an_error_too(tmp_path: Path) -> None:
    class Fails(Detaches):
        def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            super().on_step_end(args, state, control, **kw)
            if state.global_step == 5:
                raise RuntimeError("in mid-training")

    detaches = Fails(3)
    host = trainer(tmp_path, net(), Data(N), callbacks=[detaches])
    own = {name: getattr(host, name) for name in hf.HOOKS}
    detaches.attached, detaches.model = hf.attach(host, METHOD, **OPTIONS), host.model
    with pytest.raises(RuntimeError, match="in mid-training"):
        host.train()
    assert {name: getattr(host, name) for name in own} == own


def test_detached_before_its_first_batch_a_training_is_plain(tmp_path: Path) -> None:
    class Early(Detaches):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            self.attached.detach()

    early = Early(0)
    host = trainer(tmp_path, net(), Data(N), callbacks=[early], gradient_accumulation_steps=1)
    early.attached, early.model = hf.attach(host, METHOD, **OPTIONS), host.model
    host.train()
    assert host.state.global_step == 2 * 38
    plain = trainer(tmp_path, net(), Data(N), gradient_accumulation_steps=1)
    plain.train()
    assert same(weights(host), weights(plain))


def test_so_many_steps_as_told(tmp_path: Path) -> None:
    host, *_ = run(tmp_path, 10, max_steps=70)
    assert host.state.global_step == 70
    sizes = [len(rows) for rows in host.model.seen]
    assert set(sizes[-20:]) == {SIZE}


def test_resumed_after_it_was_detached_it_ends_at_the_same_weights(tmp_path: Path) -> None:
    more = {"save_strategy": "steps", "save_steps": 2}
    whole, told, _ = run(tmp_path, 10, **more)
    first = told.ends[0][0]
    assert first > 14
    # In the filtered pass after it was told, in the first plain pass, and in the second.
    for at in (12, first // 2 * 2 + 10, first // 2 * 2 + 50):
        again, _, attached = run(
            tmp_path, 0, seed=9, checkpoint=tmp_path / f"checkpoint-{at}", **more
        )
        assert attached.sieve.detached
        assert again.state.global_step == whole.state.global_step
        assert again.model.seen == whole.model.seen[-len(again.model.seen) :]
        assert same(weights(whole), weights(again)), at


def test_before_training_it_is_given_back_at_once(tmp_path: Path) -> None:
    host = trainer(tmp_path, net(), Data(N))
    own = {name: getattr(host, name) for name in hf.HOOKS}
    hf.attach(host, closed(), **OPTIONS).detach()
    assert {name: getattr(host, name) for name in own} == own
