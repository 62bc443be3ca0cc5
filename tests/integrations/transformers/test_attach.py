"""The Trainer with a sieve attached: off it changes nothing, on it filters and logs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finesieve as fs
from finesieve import methods

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    Trainer,
    TrainerCallback,
)

from finesieve.batches.carry import WEIGHTS  # noqa: E402
from finesieve.costs import watch  # noqa: E402
from finesieve.costs.timer import ProgramTimer  # noqa: E402
from finesieve.integrations import common as hosts  # noqa: E402
from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    closed,
    same,
    trainer,
    weights,
)


class Watch(TrainerCallback):
    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.rates: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
        self.logs.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.rates.append(kw["lr_scheduler"].get_last_lr()[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_switched_off_it_is_the_host_to_the_bit(tmp_path: Path, smoothing: float) -> None:
    more = {"label_smoothing_factor": smoothing, "max_grad_norm": 0.5}
    plain = trainer(tmp_path, **more)
    plain.train()
    sieved = trainer(tmp_path, **more)
    hf.attach(sieved, "full")
    sieved.train()
    assert same(weights(plain), weights(sieved))
    assert plain.state.global_step == sieved.state.global_step == 38
    logs = [
        {k: v for k, v in h.items() if "runtime" not in k and "second" not in k}
        for host in (plain, sieved)
        for h in host.state.log_history
    ]
    assert logs[: len(logs) // 2] == logs[len(logs) // 2 :]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_gates_that_never_close_train_like_the_host(tmp_path: Path, schedule: str) -> None:
    """Same batches, same losses, same rates; no class is touched."""
    # With a last step of fewer batches than the others the rates' places differ.
    more = {"gradient_accumulation_steps": 1} if schedule != "constant" else {}
    plain = trainer(tmp_path, lr_scheduler_type=schedule, **more)
    plain.train()
    sieved = trainer(tmp_path, lr_scheduler_type=schedule, **more)  # its making sets the seed
    kind, before = type(sieved), dict(vars(Trainer))
    attached = hf.attach(sieved, closed(starts={}))
    assert (type(sieved), dict(vars(Trainer))) == (kind, before)
    assert attached.figures() == {}  # nothing is known before training
    sieved.train()
    assert attached.figures()["sieve_trained"] == 1.0
    assert attached.sieve is not None
    assert attached.sieve.stage == 1
    assert same(weights(plain), weights(sieved))


@pytest.mark.parametrize("method", ["full", "ours", "max_steps"])
def test_every_step_is_in_the_books(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one too, after which a trainer asks for no more batches."""
    now = [0.0]
    monkeypatch.setattr(watch, "timer_on", lambda devices: ProgramTimer(lambda: now[0]))
    more = {"max_steps": 11} if method == "max_steps" else {}
    host = trainer(tmp_path, gradient_accumulation_steps=1, num_train_epochs=1, **more)
    by = {"full": "full", "ours": closed(), "max_steps": "random"}[method]
    attached = hf.attach(host, by, **OPTIONS)
    step = host.training_step

    def timed(*given: Any) -> Tensor:
        now[0] += 1.0
        return step(*given)

    host.training_step = timed
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.ledger.seconds["train"] == host.state.global_step == now[0]


def test_it_filters_and_decays_the_rate_in_full(tmp_path: Path) -> None:
    watch = Watch()
    host = trainer(tmp_path, callbacks=[watch], eval_strategy="epoch")
    attached = hf.attach(host, closed(), **OPTIONS)
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    examples = sieve.ledger.examples
    assert examples.drawn == 600
    assert examples.drawn == examples.yielded + examples.dropped
    assert 0 < examples.scored < 500
    assert examples.yielded < 420
    assert sieve.stage == 3
    assert host.state.global_step < 38
    assert watch.rates[2] == pytest.approx(3e-3, rel=0.3)  # after the warm-up
    assert watch.rates[-1] < 0.1 * 3e-3
    assert host.state.epoch == pytest.approx(2.0)
    train_logs = [x for x in watch.logs if "loss" in x]
    assert train_logs[0]["sieve_stage"] == 1.0
    assert train_logs[0]["sieve_saved"] == 0.0
    assert train_logs[-1]["sieve_stage"] == 3.0
    assert 0 < train_logs[-1]["sieve_trained"] < 0.8
    work, drawn = sieve.work(), sieve.ledger.tokens.drawn
    saved = 1.0 - work.spent(*sieve.costs, of=drawn)  # a model so small saves little: by the clock
    assert train_logs[-1]["sieve_saved"] == pytest.approx(saved, rel=0.05, abs=0.1)
    assert work.spent(0.2, 1.0, of=drawn) < 0.9
    evaluations = [x for x in watch.logs if "eval_loss" in x]
    assert len(evaluations) == 2
    assert host.evaluate()["eval_loss"] < 0.69
    assert sieve.ledger.examples.drawn == 600  # evaluation is not filtered


def test_every_optimizer_step_has_all_its_accumulated_batches(tmp_path: Path) -> None:
    host = trainer(tmp_path, gradient_accumulation_steps=4)
    calls: list[int] = []
    step = host.training_step

    def counted(net: nn.Module, inputs: Any, items: Any = None) -> Tensor:
        calls.append(host.state.global_step)
        if WEIGHTS in inputs and fs.is_filler(inputs):
            fillers.append(host.state.global_step)
        return step(net, inputs, items)

    fillers: list[int] = []
    host.training_step = counted
    hf.attach(host, closed(starts={2: 0.1, 3: 0.5}), **OPTIONS)
    host.train()
    found = [calls.count(i) for i in range(host.state.global_step)]
    assert found == [4] * host.state.global_step
    assert len(calls) == sum(found)
    assert 0 < len(fillers) < 8


def test_the_pace_counts_every_example_drawn(tmp_path: Path) -> None:
    """Also of a resumed run, which draws the rest."""
    more = {"save_strategy": "steps", "save_steps": 5}
    whole = trainer(tmp_path, **more)
    hf.attach(whole, closed(), **OPTIONS)
    done = whole.train()
    steps = whole.state.global_step
    assert whole.state.max_steps == steps < 38

    def counted(what: str, metrics: dict[str, float]) -> float:
        return metrics[f"train_{what}_per_second"] * metrics["train_runtime"]

    assert counted("samples", done.metrics) == pytest.approx(600, rel=0.01)
    again = trainer(tmp_path, **more)
    hf.attach(again, closed(), **OPTIONS)
    for at in (5, steps):  # at the end all was done
        done = again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert again.state.global_step == steps
        made = counted("steps", done.metrics)
        assert round(made) in (steps - at, steps)  # transformers 4 counts those before as well
        assert counted("samples", done.metrics) == pytest.approx(600 * made / steps, rel=0.01)


def test_max_steps_are_made(tmp_path: Path) -> None:
    watch = Watch()
    host = trainer(tmp_path, max_steps=31, callbacks=[watch])
    attached = hf.attach(host, methods.registry.build("random", 0, share=0.4), **OPTIONS)
    host.train()
    assert host.state.global_step == 31
    assert attached.sieve is not None
    assert attached.sieve.passes >= 3
    assert watch.rates[-1] == 0.0  # the trainer's own schedule


def test_what_the_last_step_is_evaluated_and_saved_for(tmp_path: Path) -> None:
    """The trainer learns only afterwards which step was its last."""
    host = trainer(
        tmp_path,
        eval_strategy="steps",
        eval_steps=7,
        save_strategy="steps",
        save_steps=7,
        load_best_model_at_end=True,
    )
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    last = host.state.global_step
    assert last % 7
    assert [x["step"] for x in host.state.log_history if "eval_loss" in x] == [
        *range(7, last, 7),
        last,
    ]
    assert (tmp_path / f"checkpoint-{last}").exists()
    assert host.state.best_model_checkpoint is not None
    losses = [x["eval_loss"] for x in host.state.log_history if "eval_loss" in x]
    assert host.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-5)


def test_early_stopping(tmp_path: Path) -> None:
    host = trainer(
        tmp_path,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        load_best_model_at_end=True,
        learning_rate=0.0,
        callbacks=[transformers.EarlyStoppingCallback(2)],
    )
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    assert host.state.global_step == 9  # two evaluations no better than the first


class Slow(TrainerCallback):
    """An evaluation that takes ten seconds, by the clock given."""

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def on_evaluate(self, *_: Any, **kw: Any) -> None:
        self.now[0] += 10.0


@pytest.mark.parametrize("parts", [1, 4])
def test_evaluation_is_no_training_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(watch, "timer_on", lambda devices: ProgramTimer(lambda: now[0]))
    host = trainer(
        tmp_path,
        gradient_accumulation_steps=parts,
        eval_strategy="steps",
        eval_steps=2,
        callbacks=[Slow(now)],
    )
    attached = hf.attach(host, closed(), **OPTIONS)
    step = host.training_step

    def timed(*given: Any) -> Tensor:
        now[0] += 1.0
        return step(*given)

    host.training_step = timed
    host.train()
    assert attached.sieve is not None
    assert now[0] > 50.0
    spent = attached.sieve.ledger.seconds["train"]
    made = parts * host.state.global_step
    assert made - 2 * parts <= spent <= made


def test_a_schedule_made_before_training(tmp_path: Path) -> None:
    host = trainer(tmp_path)
    hf.attach(host, closed(), **OPTIONS)
    host.create_optimizer_and_scheduler(76)
    host.train()
    assert host.lr_scheduler.get_last_lr()[0] < 1e-4


def test_what_stands_for_a_schedule_or_a_loader_can_be_copied(tmp_path: Path) -> None:
    """Python asks a copy that is being made for names before it has any field."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = hosts.Driven(torch.optim.lr_scheduler.StepLR(optimizer, 1), 10, float)
    host = trainer(tmp_path)
    hf.attach(host, closed(), **OPTIONS)
    loader = host.get_train_dataloader()
    for found in (copy.copy(schedule), copy.deepcopy(schedule), copy.copy(loader)):
        assert type(found) in (type(schedule), type(loader))
    assert copy.deepcopy(schedule).get_last_lr() == schedule.get_last_lr() == [0.1]
    assert copy.copy(loader).batch_sampler is loader.batch_sampler
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = loader.nothing_of_this_name


def test_a_total_for_counted_steps(tmp_path: Path) -> None:
    """A method that goes by shares of the stream needs the stream's length."""
    host = trainer(tmp_path, max_steps=20)
    attached = hf.attach(host, closed(), total=500, **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    assert host.state.global_step == 20


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("rho-loss", "needs a reference model"),
        ("authors", "a learning rate that goes by steps"),
        ("infobatch", "id_key="),
    ],
)
def test_methods_that_need_more_than_a_stream(tmp_path: Path, method: str, said: str) -> None:
    with pytest.raises(fs.ConfigError, match=said):
        hf.attach(trainer(tmp_path), method)


@pytest.mark.parametrize("name", ["full", "infobatch", "mine"])
def test_nothing_hangs_on_a_methods_name(tmp_path: Path, name: str) -> None:
    """A random half is filtered whatever it is called: the rate decays in full."""
    half = fs.Method(name, fs.Random(0.5), fs.Open(), fs.Fixed({3: 0.0}))
    host = trainer(tmp_path)
    attached = hf.attach(host, half, **OPTIONS)
    host.train()
    assert attached.filters
    assert host.state.epoch == pytest.approx(2)
    assert host.lr_scheduler.get_last_lr()[0] < 1e-4
    plain = fs.Method(name, fs.Open(), fs.Open(), fs.Fixed({}))
    assert not hf.attach(trainer(tmp_path), plain).filters


def test_ids_of_the_users_own(tmp_path: Path) -> None:
    """Their column is for the sieve, not for the model; in evaluation too."""
    host = trainer(tmp_path, eval_strategy="epoch", num_train_epochs=3)
    plain = host.data_collator

    def numbered(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        numbers = torch.tensor([sum(r["input_ids"].tolist()) for r in rows])
        return {**plain(rows), "number": numbers}

    host.data_collator = numbered
    attached = hf.attach(host, "infobatch", id_key="number", **OPTIONS)
    host.train()
    assert attached.sieve is not None
    examples = attached.sieve.ledger.examples
    assert 300 < examples.yielded < 0.95 * examples.drawn


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="has no such schedule")
def test_a_schedule_that_goes_by_a_metric_is_the_trainers(tmp_path: Path) -> None:
    host = trainer(
        tmp_path, lr_scheduler_type="greedy", eval_strategy="epoch", metric_for_best_model="loss"
    )
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    assert math.isfinite(host.evaluate()["eval_loss"])
