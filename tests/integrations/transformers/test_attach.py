"""The Trainer with a sieve attached: off it changes nothing, on it filters, resumes, logs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.tasks import renamed  # noqa: E402
from finesieve.batches.carry import WEIGHTS  # noqa: E402
from finesieve.costs import watch  # noqa: E402
from finesieve.costs.timer import ProgramTimer  # noqa: E402
from finesieve.integrations import common as hosts  # noqa: E402
from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    SMALL,
    Data,
    closed,
    collate,
    model,
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
    sieved.train()
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


class Ends(TrainerCallback):
    """The steps with which passes ended."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.steps.append(str(state.global_step))


@pytest.mark.parametrize("more", [{}, {"max_steps": 14}])
def test_resuming_from_the_last_step_of_a_pass(tmp_path: Path, more: dict[str, Any]) -> None:
    """Nothing is left of that pass: the next one follows."""
    ends = Ends()
    more = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 1, **more}
    more["data"] = Data(120)
    method = closed() if "max_steps" not in more else methods.registry.build("random", 0, share=0.5)
    whole = trainer(tmp_path, callbacks=[ends], **more)
    hf.attach(whole, method, **OPTIONS)
    whole.train()
    again = trainer(tmp_path, model(seed=9), **more)
    attached = hf.attach(again, method, **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{ends.steps[0]}"))
    assert attached.sieve is not None
    assert attached.sieve.passes >= 1
    assert again.state.global_step == whole.state.global_step
    assert same(weights(whole), weights(again))


@pytest.mark.parametrize("at", ["4", "14"])
def test_resuming_ends_at_the_same_weights(tmp_path: Path, at: str) -> None:
    """From the first pass and from the second; the trainer miscounts the passes."""
    more = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "a", **more)
    hf.attach(whole, closed(), **OPTIONS)
    whole.train()
    again = trainer(tmp_path / "a", model(seed=9), **more)
    attached = hf.attach(again, closed(), **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{at}"))
    assert same(weights(whole), weights(again))
    assert whole.state.global_step == again.state.global_step
    assert attached.sieve is not None
    assert attached.sieve.passes == 2
    assert (tmp_path / "a" / f"checkpoint-{whole.state.global_step}").exists()
    (tmp_path / "a" / "checkpoint-4" / "finesieve-rank0.pt").unlink()
    bare = trainer(tmp_path / "a", **more)
    hf.attach(bare, closed(), **OPTIONS)
    with pytest.raises(fs.StateError, match="saved without a sieve"):
        bare.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))


@pytest.mark.parametrize(
    "args",
    [
        renamed(train_sampling_strategy="group_by_length"),
        {"accelerator_config": {"use_seedable_sampler": False}},
    ],
)
def test_resuming_a_pass_whose_order_is_drawn_when_it_begins(
    tmp_path: Path, args: dict[str, Any]
) -> None:
    more = {"save_strategy": "steps", "save_steps": 2, "data": Data(160), **args}
    whole = trainer(tmp_path, **more)
    hf.attach(whole, closed(), **OPTIONS)
    whole.train()
    for at in (2, 12):
        again = trainer(tmp_path, model(seed=9), **more)
        hf.attach(again, closed(), **OPTIONS)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert same(weights(whole), weights(again))


@pytest.mark.parametrize("at", [4, 30])
def test_switched_off_it_resumes_as_the_host(tmp_path: Path, at: int) -> None:
    more = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, **more).train()
    plain, sieved = (trainer(tmp_path, model(seed=9), **more) for _ in range(2))
    hf.attach(sieved, "full")
    for host in (plain, sieved):
        host.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert same(weights(plain), weights(sieved))


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


def test_training_again_starts_anew(tmp_path: Path) -> None:
    """Also where the method was given as an object, whose gates learn."""
    host = trainer(tmp_path, num_train_epochs=1, learning_rate=0.0)
    method = closed()
    attached = hf.attach(host, method, **OPTIONS)
    made = []
    for _ in range(2):
        host.train()
        assert attached.sieve is not None
        made.append((attached.sieve, attached.sieve.ledger.examples, host.state.global_step))
    assert made[0][0] is not made[1][0]
    assert made[0][1:] == made[1][1:]
    before, after = closed().forward.state_dict(), method.forward.state_dict()
    assert str(before["predictor"]) == str(after["predictor"])  # it has learned nothing


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


@pytest.mark.parametrize(("parts", "said"), [(1, r"3\.00"), (4, r"3\.00")])
def test_a_loss_of_the_models_own_is_noticed(tmp_path: Path, parts: int, said: str) -> None:
    """Class weights in the model's forward, say: gates would go by another loss."""

    class WeighingForSequenceClassification(BertForSequenceClassification):
        def forward(self, *given: Any, **named: Any) -> Any:
            named.pop("num_items_in_batch", None)  # transformers 4 gives it for the `**named` here
            out = super().forward(*given, **named)
            if out.loss is not None:
                out.loss = 3.0 * out.loss
            return out

    torch.manual_seed(0)
    net = WeighingForSequenceClassification(BertConfig(**SMALL))
    host = trainer(tmp_path, net, gradient_accumulation_steps=parts)
    hf.attach(host, closed(), **OPTIONS)
    with pytest.raises(fs.ConfigError, match=f"loss is {said} times that of SingleLabel"):
        host.train()


class Weighing(Trainer):
    """Class weights as people write them."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        each = F.cross_entropy(outputs.logits, labels, reduction="none")
        loss = (each * CLASS_WEIGHTS[labels]).mean()
        return (loss, outputs) if return_outputs else loss


CLASS_WEIGHTS = torch.tensor([1.0, 3.0])


def test_a_head_that_is_given_is_trained_on_throughout(tmp_path: Path) -> None:
    """Class weights in the head: with gates open the loss is what a trainer of one's own has, and
    its function for the loss of a batch is replaced."""
    args: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "lr_scheduler_type": "constant",
    }
    own = Weighing(
        model(),
        TrainingArguments(str(tmp_path), **args),
        data_collator=collate,
        train_dataset=Data(304),
    )
    own.train()
    weighing = fs.heads.SingleLabel(class_weights=CLASS_WEIGHTS)
    for start, more in (
        (closed(starts={}), {}),
        (closed(starts={}), {"compute_loss_func": lambda *given, **named: None}),
    ):
        host = Trainer(
            model(),
            TrainingArguments(str(tmp_path), **args),
            data_collator=collate,
            train_dataset=Data(304),
            **more,
        )
        hf.attach(host, start, head=weighing)
        host.train()
        for a, b in zip(weights(own), weights(host), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    host = Trainer(
        model(),
        TrainingArguments(str(tmp_path), **args),
        data_collator=collate,
        train_dataset=Data(304),
    )
    attached = hf.attach(host, closed(), head=weighing, **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_a_random_subset_trains_on_the_head_that_is_given(tmp_path: Path, share: float) -> None:
    """However its weights, which are all alike, come out in floating point."""
    ends = []
    for head in (fs.heads.SingleLabel(class_weights=torch.tensor([1.0, 30.0])), None):
        host = trainer(tmp_path, lr_scheduler_type="constant", gradient_accumulation_steps=1)
        method = methods.registry.build("random", 0, share=share)
        attached = hf.attach(host, method, head=head, **OPTIONS)
        host.train()
        assert attached.sieve is not None
        # From a few steps on, all are said to be of the class of the heavy weight.
        batch = collate(Data(300).rows)
        del batch["labels"]
        with torch.no_grad():
            ends.append(float((host.model(**batch).logits.argmax(-1) == 1).float().mean()))
    assert ends[0] > ends[1] + 0.2


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
