"""Scoring in bf16 where training is in float32: when, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import finesieve as fs
from finesieve.errors import ConfigError
from finesieve.scoring import precision
from finesieve.scoring.precision import Precision
from finesieve.scoring.protocol import Launched, Scores
from tests.conftest import Bag, ids_of, make_batches, train

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any machine counts as fast at bf16, any model as large enough."""
    monkeypatch.setattr(precision, "fast_bf16", lambda device: True)
    monkeypatch.setattr(precision, "_MATRICES", {"cpu": 1})


class Scoring:
    """Scores with a linear layer, and notes what type its outputs had."""

    def __init__(self, best: float = 0.0, prefix: bool = False) -> None:
        self.model = nn.Linear(4, 2)
        nn.init.zeros_(self.model.weight)
        nn.init.constant_(self.model.bias, 1.001)  # 1 in bf16
        self.kinds: list[torch.dtype] = []
        self.best, self.prefix = best, prefix

    def __call__(self, batch: torch.Tensor) -> Launched:
        with torch.no_grad():
            out = self.model(batch)
        self.kinds.append(out.dtype)
        loss = (out.float() - self.best).abs().sum(1)
        return Launched(loss, None, out if self.prefix else None)

    def run(self, wanted: str = "auto", batches: int = 3) -> list[torch.dtype]:
        scored = Precision(wanted, self.model)
        for _ in range(batches):
            scored.launched(self, torch.ones(3, 4))
        return self.kinds


def test_the_first_batch_is_scored_in_both_and_the_others_in_bf16() -> None:
    assert Scoring().run() == [FP32, BF16, BF16, BF16]


def test_both_are_compared_again_at_the_eighth() -> None:
    kinds = Scoring().run(batches=9)
    assert kinds == [FP32, *[BF16] * 7, FP32, BF16, BF16]


def test_training_precision_is_kept_on_request() -> None:
    assert Scoring().run("training") == [FP32] * 3


def test_sizes_that_lie_apart_are_scored_as_in_training_until_they_do_not() -> None:
    scoring = Scoring(best=1.0)  # of a rounded output nothing is left
    scored = Precision("auto", scoring.model)
    for step in range(10):
        if step == 5:
            scoring.best = 0.0
        scored.launched(scoring, torch.ones(3, 4))
    assert scoring.kinds == [FP32, BF16, *[FP32] * 6, FP32, BF16, BF16, BF16]


def test_an_operation_that_does_not_know_bf16_is_no_error() -> None:
    scoring = Scoring()

    def stubborn(batch: torch.Tensor) -> Launched:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("not implemented for 'BFloat16'")
        return scoring(batch)

    scored = Precision("auto", scoring.model)
    for _ in range(20):
        scored.launched(stubborn, torch.ones(3, 4))
    assert scoring.kinds == [FP32] * 20


def test_a_scorer_that_hands_numpy_its_outputs_is_scored_as_before() -> None:
    scoring = Scoring()

    def old(batch: torch.Tensor) -> Scores:
        found = scoring(batch)
        with torch.no_grad():
            loss = scoring.model(batch).sum(1).numpy()  # TypeError: NumPy has no bf16
        return Scores(loss, found.loss.numpy())

    scored = Precision("auto", scoring.model)
    for _ in range(3):
        assert isinstance(scored.launched(old, torch.ones(3, 4)), Scores)
    assert scoring.kinds == [FP32, BF16, FP32, FP32]


def test_an_operation_that_fails_later_is_no_error_either() -> None:
    scoring = Scoring()

    def moody(batch: torch.Tensor) -> Launched:
        if torch.is_autocast_enabled("cpu") and len(batch) > 3:
            raise RuntimeError("not implemented for 'BFloat16'")
        return scoring(batch)

    scored = Precision("auto", scoring.model)
    for n in (3, 3, 4, 3):
        scored.launched(moody, torch.ones(n, 4))
    assert scoring.kinds == [FP32, BF16, BF16, FP32, FP32]


def test_a_first_batch_that_memory_was_not_enough_for_comes_again() -> None:
    scoring = Scoring()

    def greedy(batch: torch.Tensor) -> Launched:
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return scoring(batch)

    scored = Precision("auto", scoring.model)
    with pytest.raises(torch.OutOfMemoryError):
        scored.launched(greedy, torch.ones(6, 4))
    for _ in range(2):
        scored.launched(greedy, torch.ones(3, 4))
    assert scoring.kinds == [FP32, BF16, BF16]


def test_a_torch_without_onednn_is_slow_at_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.fast_bf16(torch.device("cpu"))


def test_memory_that_is_not_enough_is_told() -> None:
    scoring = Scoring()

    def greedy(batch: torch.Tensor) -> Launched:
        if torch.is_autocast_enabled("cpu"):
            raise torch.OutOfMemoryError
        return scoring(batch)

    with pytest.raises(torch.OutOfMemoryError):
        Precision("auto", scoring.model).launched(greedy, torch.ones(3, 4))


def small(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    monkeypatch.setattr(precision, "_MATRICES", {"cpu": 9})


def slow(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    monkeypatch.setattr(precision, "fast_bf16", lambda device: False)


def half(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    scoring.model.register_parameter("more", nn.Parameter(torch.ones(2, dtype=BF16)))


def frozen(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    scoring.prefix = True


def compiled(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    scoring.model = torch.compile(scoring.model, backend="eager")  # type: ignore[assignment]


def compiled_in_place(monkeypatch: pytest.MonkeyPatch, scoring: Scoring) -> None:
    scoring.model.compile(backend="eager")


@pytest.mark.parametrize("why", [small, slow, half, frozen, compiled, compiled_in_place])
def test_it_is_left_alone_where_it_would_not_help(
    why: Callable[[pytest.MonkeyPatch, Scoring], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = Scoring()
    why(monkeypatch, scoring)
    assert scoring.run() == [FP32] * 3


def test_a_scorer_in_mixed_precision_stays_in_its_own() -> None:
    kinds = []

    class Telling(Bag):
        def forward(self, *args: Any, **more: Any) -> Any:
            out = super().forward(*args, **more)
            if not torch.is_grad_enabled():
                kinds.append(out.dtype)
            return out

    options = fs.SieveOptions(
        pool=48, group=2, autocast=lambda: torch.autocast("cpu", torch.float16)
    )
    run(Telling(dropout=0.0), options=options)
    assert set(kinds) == {torch.float16}


def method() -> fs.Method:
    return fs.methods.registry.build("finesieve", 0, predictor_bits=12, starts={2: 0.0}, train=0.4)


def sieved(model: nn.Module, n: int, **more: Any) -> fs.Sieve:
    more.setdefault("options", fs.SieveOptions(pool=48, group=2))
    head = fs.heads.SingleLabel()
    return fs.Sieve(model, method(), total=n, head=head, head_start=0, **more)


def run(model: Any, n: int = 320, **more: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(sieved(model, n, **more), make_batches(n), model, optimizer)


def test_a_sieve_scores_in_bf16_and_trains_in_float32() -> None:
    trained, scored = [], []

    class Telling(Bag):
        def forward(self, *args: Any, **more: Any) -> Any:
            out = super().forward(*args, **more)
            (trained if torch.is_grad_enabled() else scored).append(out.dtype)
            return out

    run(Telling(dropout=0.0))
    assert set(trained) == {FP32}
    assert scored[0] == FP32
    assert scored.count(BF16) > 0.7 * len(scored)


def test_a_batch_that_was_scored_twice_is_not_timed() -> None:
    model = Bag(dropout=0.0)
    sieve = sieved(model, 320)
    train(sieve, make_batches(320), model, torch.optim.SGD(model.parameters(), lr=0.01))
    options = fs.SieveOptions(pool=48, group=2, scoring_precision="training")
    plain = sieved(model, 320, options=options)
    train(plain, make_batches(320), model, torch.optim.SGD(model.parameters(), lr=0.01))
    forwards = plain.meter.paces["score"].count
    assert 8 <= forwards < 64
    assert sieve.meter.paces["score"].count == forwards - 2  # the first and the eighth


def test_a_resumed_run_scores_as_it_would_have() -> None:
    one, two = Bag(dropout=0.0), Bag(dropout=0.0)
    batches = make_batches(320)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (one, two)]
    whole, first, second = sieved(one, 320), sieved(two, 320), sieved(two, 320)
    expected = train(whole, batches, one, optimizers[0])
    seen = train(first, batches, two, optimizers[1], stop=4)
    second.load_state_dict(first.state_dict())
    seen += train(second, batches, two, optimizers[1])
    assert ids_of(seen) == ids_of(expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="scoring_precision is 'bf16'; expected one of"):
        fs.SieveOptions(scoring_precision="bf16")
