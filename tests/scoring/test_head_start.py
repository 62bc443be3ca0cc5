"""The head start in the stream: when it comes, when it is left alone, on several ranks."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve import heads, methods, scores
from finesieve.scoring.head_start import HeadStart, start_head
from finesieve.scoring.last_layer import LastLayer
from finesieve.scoring.task_of import default_head, head_of
from tests.conftest import Bag, by_hand, ids_of, make_batches, train
from tests.scoring.kit import Given, layer


@pytest.fixture(autouse=True)
def head_start_off() -> None:
    """Here it is on."""


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


def test_a_class_that_one_half_lacks_does_not_make_a_new_head_look_trained() -> None:
    """The frequencies of a half without some classes may be worse than no prediction at all."""
    dice = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 40, (280,), generator=dice)
    x = F.one_hot(labels, 40).float() + 0.1 * torch.randn(280, 40, generator=dice)
    model = Given(40, 40)
    found = scores.Task(model, heads.SingleLabel()).last_layer({"x": x, "labels": labels})
    came = start_head(found)
    assert came.frequencies > np.log(40)
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


# ---- where nothing can be told from the features


@pytest.mark.parametrize(("share", "seed", "fitted"), [(0.05, 2, True), (0.4, 0, False)])
def test_rare_labels_begin_at_their_frequencies(share: float, seed: int, fitted: bool) -> None:
    """A new layer gives each a probability of a half; with frequent ones that is nearly right."""
    dice = torch.Generator().manual_seed(seed)
    labels = (torch.rand(200, 8, generator=dice) < share).float()
    batch = {"x": torch.randn(200, 12, generator=dice), "labels": labels}
    model = Given(12, 8)
    before = [p.detach().clone() for p in model.head.parameters()]
    found = start_head(scores.Task(model, heads.MultiLabel()).last_layer(batch))
    assert found.fitted is fitted
    assert found.before is not None
    assert found.before > 0.6
    if not fitted:
        assert "no better" in found.reason
        assert all(map(torch.equal, before, model.head.parameters()))
        return
    assert found.after == found.frequencies < 0.3
    assert found.strength is None
    assert "how frequent labels are" in found.reason
    assert not model.head.weight.any()
    given = torch.sigmoid(model.head.bias).detach()
    torch.testing.assert_close(given, labels.mean(dim=0), atol=0.01, rtol=0.0)


def test_one_rare_class_of_several_does_not() -> None:
    """There a new layer is not as far from the best constant, and it stays as it is."""
    dice = torch.Generator().manual_seed(0)
    labels = (torch.rand(200, generator=dice) < 0.05).long()
    batch = {"x": torch.randn(200, 12, generator=dice), "labels": labels}
    found = start_head(scores.Task(Given(12, 2), heads.SingleLabel()).last_layer(batch))
    assert not found.fitted
