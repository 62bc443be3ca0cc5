"""The head start: what is fitted, how well, when it is left alone, and in every host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import heads, methods, scores
from finesieve.scoring.head_start import STRENGTHS, HeadStart, start_head
from finesieve.scoring.last_layer import LastLayer
from finesieve.scoring.task_of import default_head, head_of
from tests.conftest import Bag, arguments, by_hand, ids_of, make_batches, train


@pytest.fixture(autouse=True)
def head_start_off() -> None:
    """Here it is on."""


class Given(nn.Module):
    """A linear head on features that come with the batch; `reads` of them make each prediction."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, out, bias=bias)
        nn.init.eye_(self.body.weight)
        nn.init.zeros_(self.body.bias)

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.body(x)))


def layer(out: int = 3, n: int = 200, seed: int = 0, bias: bool = True) -> tuple[Given, LastLayer]:
    """Classes that follow from noisy features, whose mean and scale are far from 0 and 1."""
    dice = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, out, (n,), generator=dice)
    x = 3.0 * F.one_hot(labels, 12).float() + torch.randn(n, 12, generator=dice)
    model = Given(12, out, bias)
    batch = {"x": 5.0 + 0.1 * x, "labels": labels}
    found = scores.Task(model, heads.SingleLabel()).last_layer(batch)
    assert found is not None
    return model, found


# ---- the fit


def test_the_fit_is_multinomial_logistic_regression() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    model, found = layer()
    came = start_head(found)
    assert came.fitted, came
    x = found.inputs[:, 0].numpy()
    scale = float(np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()))
    # Theirs: C times the sum of the losses + |W|^2 / 2, on the same centred and scaled inputs.
    twin = linear.LogisticRegression(C=1.0 / (came.strength * len(x)), max_iter=5000, tol=1e-8)
    twin.fit((x - x.mean(0)) / scale, found.targets["labels"].numpy())
    theirs = twin.predict_proba((x - x.mean(0)) / scale)
    ours = F.linear(found.inputs[:, 0], model.head.weight, model.head.bias).softmax(1)
    assert np.abs(ours.detach().numpy() - theirs).max() < 2e-3


def test_its_strength_is_the_best_for_examples_that_it_did_not_see() -> None:
    _, found = layer()
    came = start_head(found)
    assert came.strength in STRENGTHS
    assert came.after < 0.7 * came.frequencies < 0.9 * came.before
    assert came.frequencies == pytest.approx(np.log(3), abs=0.05)
    # Labels that the inputs say nothing of: strongly regularised or left alone, never fitted well.
    _, noise = layer()
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    noise.targets["labels"] = noise.targets["labels"][shuffled]
    came = start_head(noise)
    assert not came.fitted or came.strength >= 0.03


def test_without_a_bias_there_is_no_constant_to_take_the_mean_back_in() -> None:
    model, found = layer(bias=False)
    before = found.losses(model.head.weight, None).mean()
    assert start_head(found).fitted
    assert found.losses(model.head.weight, None).mean() < 0.8 * before


def tasks() -> Iterator[Any]:
    """Task, model, batch: targets that follow from the features in each task's own way."""
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(160, 8, generator=dice)
    mix = torch.randn(8, 4, generator=dice)
    classes, values = (x @ mix).argmax(1), x @ mix
    yield "single label", heads.SingleLabel(), 4, {"x": x, "labels": classes}
    weights = torch.tensor([1.0, 4.0, 1.0, 1.0])
    weighed = heads.SingleLabel(class_weights=weights)
    yield "class weights", weighed, 4, {"x": x, "labels": classes}
    yield "smoothed", heads.SingleLabel(smoothing=0.2), 4, {"x": x, "labels": classes}
    yield "multi-label", heads.MultiLabel(), 4, {"x": x, "labels": (values > 0).float()}
    yield "regression", heads.Regression(), 1, {"x": x, "labels": values[:, 0] + 7.0}
    long = torch.randn(160, 5, 8, generator=dice)
    each = (long @ mix).argmax(2)
    each[:, 3:] = -100
    yield "tokens", heads.Tokens(), 4, {"x": long, "labels": each}
    choice = (long @ mix)[:, :, 0].argmax(1)
    yield "choice", heads.Choice(), 1, {"x": long, "labels": choice}


@pytest.mark.parametrize(
    ("head", "out", "batch"), [t[1:] for t in tasks()], ids=[t[0] for t in tasks()]
)
def test_every_task_is_fitted_with_its_own_loss(head: heads.Head, out: int, batch: Any) -> None:
    class Chosen(Given):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x).logits
            return SimpleNamespace(
                logits=logits.squeeze(2) if isinstance(head, heads.Choice) else logits
            )

    model = Chosen(8, out)
    task = scores.Task(model, head)
    before = float(task(batch).loss.mean())
    found = task.last_layer(batch)
    assert found is not None
    assert found.layer is model.head
    # The layer's loss, computed from its inputs, is the model's.
    alike = found.losses(model.head.weight, model.head.bias)
    assert torch.allclose(alike, torch.from_numpy(task(batch).loss), atol=1e-5)
    came = start_head(found)
    assert came.fitted, came
    assert task(batch).loss.mean() < 0.75 * before
    # And it is a minimum of that very loss: every class weight and smoothing counts.
    losses = found.losses(model.head.weight, model.head.bias).mean()
    losses.backward()
    inputs = found.inputs.reshape(-1, 8)
    scale = (inputs - inputs.mean(0)).square().sum(1).mean()
    pull = came.strength * scale * model.head.weight.detach()
    assert torch.allclose(model.head.weight.grad, -pull, atol=2e-3 * float(losses.detach()) + 1e-4)


def test_batches_of_other_lengths_are_padded_with_places_that_do_not_count() -> None:
    model = Given(8, 4)
    head = heads.Tokens()
    dice = torch.Generator().manual_seed(3)
    mix = torch.randn(8, 4, generator=dice)
    batches = []
    for width in (2, 7, 4, 5):
        x = torch.randn(32, width, 8, generator=dice)
        mask = torch.ones(32, width, dtype=torch.long)
        batches.append({"x": x, "labels": (x @ mix).argmax(2), "attention_mask": mask})

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor, attention_mask: Tensor) -> Any:
            return self.inner(x)

    sieve = fs.Sieve(Masked(), "selective-backprop", total=128, head_start=128, head=head)
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert sieve.head_start.fitted, sieve.head_start
    right = torch.cat([(model(b["x"]).logits.argmax(2) == b["labels"]).flatten() for b in batches])
    assert right.float().mean() > 0.85


def test_decoders_that_classify_are_read_at_one_place_of_each_text() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=60,
            n_positions=32,
            n_embd=16,
            n_layer=1,
            n_head=2,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    ).eval()
    batch = {"input_ids": torch.randint(2, 60, (8, 9)), "labels": torch.arange(8) % 3}
    batch["input_ids"][3:, 6:] = 0
    batch["attention_mask"] = (batch["input_ids"] != 0).long()
    found = scores.Task(net, heads.SingleLabel()).last_layer(batch)
    assert found is not None
    assert found.layer is net.score
    with torch.no_grad():
        logits = net(**{k: v for k, v in batch.items() if k != "labels"}).logits
    assert torch.allclose(net.score(found.inputs[:, 0]), logits, atol=1e-6)


# ---- in the stream


def stream(n: int = 4000, **more: Any) -> tuple[fs.Sieve, Bag, list[Any]]:
    model, batches = Bag(dropout=0.0), make_batches(n, batch=16)
    options = fs.SieveOptions(pool=50, group=2, listeners=more.pop("listeners", ()))
    kind = {"method": by_hand(), "total": n, "options": options, **more}
    return fs.Sieve(model, **kind), model, batches


def loss_of(model: Bag, batches: list[Any]) -> float:
    with torch.no_grad():
        parts = [
            F.cross_entropy(model(b["input_ids"], b["attention_mask"]), b["labels"])
            for b in batches
        ]
    return float(torch.stack(parts).mean())


def test_it_comes_before_the_first_step_and_the_examples_are_trained_on_like_all_others() -> None:
    events: list[dict[str, Any]] = []
    sieve, model, batches = stream(listeners=[events.append])
    before = loss_of(model, batches[100:])
    iterator = iter(sieve(batches))
    first = next(iterator)
    assert events[0]["event"] == "head_start"
    assert events[0]["fitted"] is True
    assert sieve.head_start is not None
    assert sieve.head_start.examples == 200  # a twentieth of the stream
    assert loss_of(model, batches[100:]) < before  # of examples that it was not fitted to
    assert first["sieve_ids"].tolist() == list(range(16))
    assert sieve.ledger.examples.scored == 200
    assert sieve.ledger.tokens.scored == sum(
        int(b["attention_mask"].sum()) for b in batches[:12]
    ) + int(batches[12]["attention_mask"][:8].sum())
    assert sieve.ledger.seconds["score"] >= 0.5 * sieve.head_start.seconds > 0
    assert sieve.meter.relative("score") is None  # its first launches are no price
    assert all(p.grad is None for p in model.parameters())
    seen = [first, *islice(iterator, 24)]
    assert ids_of(seen) == list(range(400))
    assert sieve.undrawn == 0


@pytest.mark.parametrize(("total", "expected"), [(None, 512), (20_000, 512), (2000, 100)])
def test_how_many_by_default(total: int | None, expected: int) -> None:
    sieve, _, batches = stream(2000, total=total, method=methods.registry.build("finesieve", 0))
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert sieve.head_start.examples == expected


def test_off_it_changes_nothing_and_methods_that_do_not_score_have_none_by_default() -> None:
    for more in ({"head_start": 0}, {"method": "full"}, {"method": "random"}):
        sieve, model, batches = stream(400, **more)
        before = [p.detach().clone() for p in model.parameters()]
        next(iter(sieve(batches)))
        assert sieve.head_start is None
        assert sieve.ledger.examples.scored == 0
        assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("method", ["full", "random", "paper", "selective-backprop"])
def test_every_method_can_have_one(method: str) -> None:
    sieve, _, batches = stream(2000, method=method, head_start=64)
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert sieve.head_start.fitted
    assert sieve.head_start.examples == 64


def test_streams_that_end_within_it_are_trained_on_in_whole() -> None:
    sieve, model, batches = stream(96, total=None, method="full", head_start=512)
    seen = train(sieve, batches, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert ids_of(seen) == list(range(96))
    assert sieve.undrawn == 0


def test_an_empty_stream_has_none() -> None:
    sieve, _, _ = stream(400)
    assert list(sieve([])) == []
    assert sieve.head_start is not None
    assert not sieve.head_start.fitted


@pytest.mark.parametrize("value", [-1, 2.5, "512"])
def test_a_number_that_is_none(value: Any) -> None:
    with pytest.raises(fs.ConfigError, match="head_start is"):
        stream(400, head_start=value)


def test_in_bf16() -> None:
    model, batches = Bag(dropout=0.0), make_batches(2000)
    half = fs.SieveOptions(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    sieve = fs.Sieve(model, by_hand(), total=2000, options=half)
    before = loss_of(model, batches[20:])
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert sieve.head_start.fitted
    assert model.head.weight.dtype == torch.float32
    assert loss_of(model, batches[20:]) < before


# ---- when it is left alone


def test_a_head_that_was_trained_is_never_touched() -> None:
    _, model, batches = stream()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches:
        F.cross_entropy(
            model(batch["input_ids"], batch["attention_mask"]), batch["labels"]
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    before = model.head.weight.detach().clone()
    sieve = fs.Sieve(model, by_hand(), total=4000)
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert not sieve.head_start.fitted
    assert "trained already" in sieve.head_start.reason
    assert torch.equal(before, model.head.weight)


def test_a_head_that_came_with_the_checkpoint_is_never_touched(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    from tests.integrations.transformers.kit import SMALL

    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, num_labels=2)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "whole")
    transformers.BertModel(config).save_pretrained(tmp_path / "body")
    batches = [
        {k: v % 60 if k == "input_ids" else v for k, v in b.items()} for b in make_batches(800)
    ]
    for folder, fitted in (("whole", False), ("body", True)):
        net = transformers.BertForSequenceClassification.from_pretrained(tmp_path / folder)
        sieve = fs.Sieve(net, by_hand(), total=800, head_start=64)
        next(iter(sieve(batches)))
        assert sieve.head_start is not None
        assert ("came with the checkpoint" in sieve.head_start.reason) == (not fitted)
        # One batch tells; the others are not run for nothing.
        assert (sieve.ledger.examples.scored == 64) == fitted


def test_a_frozen_head_is_left_alone() -> None:
    sieve, model, batches = stream(2000)
    model.head.requires_grad_(False)
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert not sieve.head_start.fitted
    assert sieve.head_start.reason == "the last layer is frozen"


def test_language_models_have_no_such_head_and_nothing_is_run() -> None:
    from tests import tiny

    net = tiny.causal()
    before = tiny.weights(net)
    task = scores.Task(net, heads.Tokens(shift=True))
    ids = torch.randint(4, 60, (800, 9))
    batches = [
        {
            "input_ids": ids[i : i + 8],
            "attention_mask": torch.ones(8, 9, dtype=torch.long),
            "labels": ids[i : i + 8],
        }
        for i in range(0, 800, 8)
    ]
    sieve = fs.Sieve(scorer=task, method=by_hand(), total=800, head_start=64)
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert "no last linear layer" in sieve.head_start.reason
    assert sieve.ledger.examples.scored == 0
    assert tiny.same(before, tiny.weights(net))


def test_a_scorer_that_is_a_plain_function_has_no_head_to_fit() -> None:
    model, batches = Bag(dropout=0.0), make_batches(800)
    sieve = fs.Sieve(
        scorer=lambda batch: scores.Classification(model)(batch), method=by_hand(), total=800
    )
    next(iter(sieve(batches)))
    assert sieve.head_start is not None
    assert not sieve.head_start.fitted


def test_losses_that_are_not_finite_leave_the_head_alone() -> None:
    model, found = layer()
    found.inputs[3] = float("nan")
    before = model.head.weight.detach().clone()
    came = start_head(found)
    assert came == HeadStart(False, "a loss is not finite", 200)
    assert torch.equal(before, model.head.weight)


# ---- resuming, ranks


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_resumed_runs_have_it_once_and_go_on_to_the_bit(cut: int) -> None:
    def fresh() -> tuple[fs.Sieve, Bag, Any]:
        sieve, model, _ = stream(800)
        return sieve, model, torch.optim.Adam(model.parameters(), lr=0.01)

    batches = make_batches(800, batch=16)
    sieve, whole, optimizer = fresh()
    train(sieve, batches, whole, optimizer)
    assert sieve.head_start is not None
    first, model, optimizer = fresh()
    train(first, batches, model, optimizer, stop=cut)
    state = {
        "sieve": first.state_dict(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    second, again, optimizer = fresh()
    second.load_state_dict(state["sieve"])
    again.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    train(second, batches, again, optimizer)
    assert second.head_start == first.head_start
    assert second.ledger.examples == sieve.ledger.examples
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


def test_a_run_that_had_none_has_none_when_it_is_resumed() -> None:
    sieve, model, batches = stream(800, head_start=0)
    train(sieve, batches, model, torch.optim.SGD(model.parameters(), lr=0.1), stop=3)
    again, model, _ = stream(800)
    again.load_state_dict(sieve.state_dict())
    before = model.head.weight.detach().clone()
    next(iter(again(batches)))
    assert again.head_start is None
    assert torch.equal(before, model.head.weight)


class Together:
    """Two ranks in two threads."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=60)
        self._given: dict[int, list[float]] = {}

    def mean(self, values: list[float]) -> list[float]:
        rank = int(threading.current_thread().name)
        self._given[rank] = values
        self._barrier.wait()
        out = [sum(pair) / 2 for pair in zip(*self._given.values(), strict=True)]
        self._barrier.wait()
        return out


def both(found: list[LastLayer | None]) -> list[HeadStart]:
    agreement, out = Together(), [None, None]

    def run(rank: int) -> None:
        out[rank] = start_head(found[rank], agreement.mean)  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(r,), name=str(r)) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out  # type: ignore[return-value]


def test_ranks_end_with_the_same_head() -> None:
    (a, first), (b, second) = layer(seed=1), layer(seed=2)
    came = both([first, second])
    assert came[0].fitted
    assert came[0].strength == came[1].strength
    assert torch.equal(a.head.weight, b.head.weight)
    assert torch.equal(a.head.bias, b.head.bias)
    for model, found in ((a, first), (b, second)):
        loss = found.losses(model.head.weight, model.head.bias).mean()
        assert loss < 0.7 * np.log(3)


def test_ranks_leave_it_alone_together() -> None:
    a, first = layer(seed=1)
    before = a.head.weight.detach().clone()
    assert [came.fitted for came in both([first, None])] == [False, False]
    assert torch.equal(before, a.head.weight)
    few = first.take(torch.arange(5))
    assert [came.fitted for came in both([few, first])] == [False, False]


# ---- hosts


def fitted(sieve: fs.Sieve | None, examples: int | None = None) -> bool:
    assert sieve is not None
    came = sieve.head_start
    assert came is not None
    assert examples is None or came.examples == examples
    return came.fitted


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers by an old name
@pytest.mark.parametrize("lora", [False, True])
def test_trainer(tmp_path: Path, lora: bool) -> None:
    pytest.importorskip("transformers")
    from finesieve.integrations.transformers import attach as hf
    from tests.integrations.transformers import kit as hf_kit

    net: Any = hf_kit.model()
    if lora:
        peft = pytest.importorskip("peft")
        net = peft.get_peft_model(
            net,
            peft.LoraConfig(
                task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["classifier"]
            ),
        )
    host = hf_kit.trainer(
        tmp_path, net, data=hf_kit.Data(400), num_train_epochs=1, learning_rate=1e-9
    )
    head = next(
        m
        for n, m in net.named_modules()
        if n.endswith("classifier.modules_to_save.default" if lora else "classifier")
    )
    before = head.weight.detach().clone()
    attached = hf.attach(host, hf_kit.closed(), **hf_kit.OPTIONS, head_start=128)
    host.train()
    assert fitted(attached.sieve, 128)
    assert (head.weight - before).abs().max() > 0.01  # the rate is next to nothing


def test_trainer_full(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from finesieve.integrations.transformers import attach as hf
    from tests.integrations.transformers import kit as hf_kit

    def run(**more: Any) -> Any:
        host = hf_kit.trainer(tmp_path, data=hf_kit.Data(400), num_train_epochs=1)
        attached = hf.attach(host, "full", **more)
        host.train()
        return host, attached

    host, attached = run()
    assert attached.sieve.head_start is None
    plain = hf_kit.trainer(tmp_path, data=hf_kit.Data(400), num_train_epochs=1)
    plain.train()
    assert hf_kit.same(hf_kit.weights(host), hf_kit.weights(plain))
    host, attached = run(head_start=64)
    assert fitted(attached.sieve, 64)
    assert not hf_kit.same(hf_kit.weights(host), hf_kit.weights(plain))
    assert host.state.global_step == plain.state.global_step


def test_trainer_resumed_in_mid_pass(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from finesieve.integrations.transformers import attach as hf
    from tests.integrations.transformers import kit as hf_kit

    def run(folder: Path, resume: Any = None, **more: Any) -> Any:
        host = hf_kit.trainer(
            folder,
            data=hf_kit.Data(400),
            num_train_epochs=1,
            save_strategy="steps",
            save_steps=5,
            **more,
        )
        hf.attach(host, hf_kit.closed(), **hf_kit.OPTIONS, head_start=64)
        host.train(resume_from_checkpoint=resume)
        return hf_kit.weights(host)

    whole = run(tmp_path / "a")
    assert hf_kit.same(run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-5")), whole)


@pytest.mark.parametrize("total", [None, 600])
def test_accelerate(total: int | None) -> None:
    pytest.importorskip("accelerate")
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from finesieve.integrations.accelerate import FilteredLoader
    from tests.integrations.accelerate.ranks import collate, rows

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = Bag(dropout=0.0)
    loader = DataLoader(rows(600), batch_size=8, collate_fn=collate)
    net, loader, optimizer = accelerator.prepare(
        model, loader, torch.optim.SGD(model.parameters(), lr=0.01)
    )
    filtered = FilteredLoader(
        accelerator,
        loader,
        net,
        by_hand(),
        pool=50,
        group=2,
        head_start=10_000,
        **({} if total is None else {"total": total}),
    )
    synced = []
    for batch in filtered:
        with accelerator.accumulate(net):
            given = fs.inputs(batch)
            labels = given.pop("labels")
            losses = F.cross_entropy(net(**given), labels, reduction="none")
            accelerator.backward(filtered.loss(losses, batch))
            optimizer.step()
            optimizer.zero_grad()
            synced.append(accelerator.sync_gradients)
    assert fitted(filtered.sieve, 600)  # the loader ended long before the first batch was drawn
    # Each step has its four batches but the last: the end was not thought to be near too early.
    steps = [i for i, last in enumerate(synced) if last]
    assert all(b - a == 4 for a, b in zip([-1, *steps], steps[:-1], strict=False))
    assert synced[-1]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from tests.integrations.lightning import kit

    callback = kit.sieved(head_start=128)
    module = kit.Classifier(callback)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1e-9)
    before = module.bag.head.weight.detach().clone()
    host = kit.trainer(tmp_path, callback, max_epochs=1)
    host.fit(module, callback(kit.loader()))
    assert fitted(callback.sieve, 128)
    assert (module.bag.head.weight - before).abs().max() > 0.02


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("examples", "more"),
    [
        (0, ()),  # a twentieth of the 480 are too few, so none is looked at
        (None, ("--limit", "32", "--head-start", "0")),
        (80, ("--limit", "280", "--head-start", "80", "--method", "random", "--freeze", "4")),
        (40, ("--limit", "48", "--head-start", "40", "--method", "full", "--lora", "2")),
    ],
    ids=["default", "off", "random, frozen layers", "full, LoRA"],
)
def test_command_line(
    files: Path, tmp_path: Path, examples: int | None, more: tuple[str, ...]
) -> None:
    if "--lora" in more:
        pytest.importorskip("peft")
    from finesieve.cli.main import main

    assert main(arguments(files, tmp_path / "run", "--eval-limit", "16", *more)) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = summary["head_start"]
    if examples is None:
        assert found is None
        assert summary["examples"]["scored"] == 0
        return
    assert found["fitted"] == (examples > 0)
    assert found["fitted"] or "too few" in found["reason"]
    assert found["examples"] == examples
    assert (summary["seconds"]["score"] > 0) == (examples > 0)
    events = map(json.loads, (tmp_path / "run" / "run.jsonl").read_text().splitlines())
    told = [e["fitted"] for e in events if e["event"] == "head_start"]
    assert told == [found["fitted"]]


def test_names_of_methods_say_who_had_it() -> None:
    from finesieve.cli.comparing.tables import titled

    had = {"head_start": {"fitted": True}}
    assert titled("full", [{}, {"head_start": None}]) == "full"
    assert titled("full", [had, had]) == "full, fitted head"
    assert titled("random", [had, {}]) == "random, fitted head in 1 of 2"


def test_a_class_that_one_half_lacks_does_not_make_a_new_head_look_trained() -> None:
    """The frequencies of a half without some classes are worse than no prediction at all."""
    dice = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 40, (280,), generator=dice)
    x = F.one_hot(labels, 40).float() + 0.1 * torch.randn(280, 40, generator=dice)
    model = Given(40, 40)
    found = scores.Task(model, heads.SingleLabel()).last_layer({"x": x, "labels": labels})
    came = start_head(found)
    assert came.frequencies > 1.1 * np.log(40)
    assert came.fitted, came


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
def test_a_compiled_model_tells_its_task() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, problem_type="multi_label_classification",
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    assert isinstance(head_of(torch.compile(model)), heads.MultiLabel)
    assert isinstance(default_head(torch.compile(model)), heads.MultiLabel)
