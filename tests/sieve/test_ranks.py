"""Two real ranks: no hang on unequal streams, one stage, one threshold, one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.sieve.ranks import Ranks
from tests.conftest import Bag, ids_of, make_batches, small_sieve
from tests.forked import Run, last_lines


@pytest.mark.parametrize("method", ["finesieve", "paper", "budget"])
def test_two_ranks(method: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    a, b = out = last_lines(
        *(Run(module="tests.sieve.ranks", words=[str(n), str(store), method]) for n in range(2))
    )
    assert a["steps"] == b["steps"] > 50
    assert a["moves"] == b["moves"]
    assert [m[0] for m in a["moves"]][:2] == ([1, 3] if method == "budget" else [1, 2])
    assert a["weight"] == b["weight"]
    assert a["threshold"] == b["threshold"]
    for rank in out:
        assert rank["conserved"]
        assert rank["drawn"] == rank["held"] == 0  # all there are
        assert rank["progress"] == pytest.approx(1.0)
        assert rank["rate"] == pytest.approx(0.0, abs=0.01)
    assert sorted(rank["fillers"] > 0 for rank in out) == [False, True]


class Second:
    """The second of two ranks, whose other says what it says itself."""

    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def mean(self, values: list[float]) -> list[float]:
        return values


@pytest.mark.parametrize(
    "settings", [{"starts": {2: 0.0}}, {"starts": {3: 0.0}}, {"budget": 0.3}], ids=str
)
def test_ranks_with_the_same_method_roll_their_own_dice(settings: dict[str, Any]) -> None:
    def kept(**more: Any) -> list[int]:
        method = fs.methods.registry.build(
            "finesieve", 0, predictor_bits=8, cost_ratio=0.2, **settings
        )
        sieve = small_sieve(method=method, **more)
        return ids_of(sieve(make_batches(400)))

    first, second, third = (kept(agreement=Second(rank)) for rank in range(3))
    assert first == kept()  # as one process does
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert second == kept(agreement=Second(1))
    shared = len(set(first) & set(second)) / len(first)
    assert shared < 0.9  # those of large gradients are kept by all


def test_a_rank_that_resumes_goes_on_with_its_own_dice() -> None:
    sieve = small_sieve(method="random", agreement=Second())
    whole = ids_of(sieve(make_batches(400)))
    sieve = small_sieve(method="random", agreement=Second())
    stream = sieve(make_batches(400))
    begun = ids_of([next(stream) for _ in range(5)])
    late = Second(0)  # as if the process group were not there yet
    again = small_sieve(method="random", agreement=late)
    again.load_state_dict(sieve.state_dict())
    late.rank = 1
    assert begun + ids_of(again(make_batches(400))) == whole
    late = Second(0)
    fresh = small_sieve(method="random", agreement=late)
    late.rank = 1
    assert ids_of(fresh(make_batches(400))) == whole


class Longer:
    """What the others say: they have `left` batches, and so long as they do, examples."""

    def __init__(self, left: int) -> None:
        self.left = left

    def mean(self, values: list[float]) -> list[float]:
        self.left -= 1
        return [(values[0] + (self.left >= 0)) / 2, *values[1:]]


def test_a_rank_with_nothing_left_yields_fillers() -> None:
    whole = list(fs.Sieve(method="full")(make_batches(40)))
    sieve = fs.Sieve(
        method="full", total=40, options=fs.SieveOptions(agreement=Longer(len(whole) + 3))
    )
    found = []
    for batch in sieve(make_batches(40)):
        sieve.loss(torch.ones(len(batch["labels"])), batch)
        found.append(batch)
    assert [fs.is_filler(b) for b in found] == [False] * len(whole) + [True] * 3
    counted, pace = sieve.ledger.examples, sieve.meter.paces["open"]
    assert sieve.ledger.seconds["train"] > 0.0  # whoever asks for them has all spans read
    assert pace.count == len(whole)  # what fillers take is no price of a token
    assert (counted.drawn, counted.yielded, sieve.held) == (40, 40, 0)
    for filler in found[-3:]:
        losses = torch.tensor([1.0, float("inf")], requires_grad=True)
        loss = sieve.loss(losses, filler)
        loss.backward()
        assert loss == 0
        assert losses.grad is not None
        assert losses.grad.tolist() == [0, 0]
        assert fs.inputs(filler)["input_ids"].shape[0] == 2
        assert filler["sieve_ids"].tolist() == [-1, -1]


def test_fillers_after_resuming_at_the_end_of_the_data() -> None:
    batches = make_batches(40)
    sieve = fs.Sieve(
        method="full", total=40, options=fs.SieveOptions(agreement=Longer(len(batches) + 2))
    )
    stream = sieve(batches)
    for _ in batches:
        next(stream)
    state = sieve.state_dict()
    again = fs.Sieve(method="full", total=40, options=fs.SieveOptions(agreement=Longer(2)))
    again.load_state_dict(state)
    assert [fs.is_filler(b) for b in again(batches)] == [True, True]


def test_a_rank_without_any_data_is_an_error_on_all() -> None:
    for batches in ([], make_batches(40)):
        sieve = fs.Sieve(method="full", total=40, options=fs.SieveOptions(agreement=Empty()))
        with pytest.raises(fs.BatchError, match="a rank's part of the data has no example"):
            next(sieve(batches))


class Empty:
    """One of two ranks has data, the other has none."""

    def mean(self, values: list[float]) -> list[float]:
        return [0.5, 0.5, *values[2:]]


def test_ranks_find_each_other_and_roll_their_own_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they are told that they do not train together."""
    alone = ids_of(fs.Sieve(method="random", total=400)(make_batches(400)))
    for name, value in (
        ("is_initialized", True),
        ("get_world_size", 2),
        ("get_rank", 1),
        ("get_backend", "gloo"),
    ):
        monkeypatch.setattr(torch.distributed, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values, **_: values.mul_(2))
    second = ids_of(fs.Sieve(method="random", total=400)(make_batches(400)))
    given = fs.SieveOptions(agreement=Second())
    assert second == ids_of(fs.Sieve(method="random", total=400, options=given)(make_batches(400)))
    assert second != alone
    apart = fs.SieveOptions(agreement=fs.sieve.ranks.Alone())
    assert alone == ids_of(fs.Sieve(method="random", total=400, options=apart)(make_batches(400)))


@pytest.mark.parametrize(("backend", "device"), [("nccl", "cuda:3"), ("gloo", "cpu")])
def test_what_ranks_tell_each_other_is_where_their_backend_needs_it(
    backend: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    make = torch.tensor

    def made(values: list[float], dtype: torch.dtype, device: str) -> torch.Tensor:
        asked.append(device)
        return make(values, dtype=dtype)

    monkeypatch.setattr(torch, "tensor", made)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    dist = torch.distributed
    monkeypatch.setattr(dist, "get_backend", lambda group: backend)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op, group: tensor.mul_(2))
    assert fs.sieve.ranks.Ranks().mean([1.0, 0.25]) == [1.0, 0.25]
    assert asked == [device]


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")  # of one process
@pytest.mark.parametrize("kind", ["FSDP", "fully_shard"])
def test_a_sharded_model_is_refused_where_others_would_be_waited_for(
    kind: str, tmp_path: Path
) -> None:
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        from torch.distributed import fsdp

        cpu = torch.device("cpu")
        model: Any = Bag(dropout=0.0)
        if kind == "FSDP":
            model = fsdp.FullyShardedDataParallel(model, device_id=cpu)
        else:
            fsdp.fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
        batches = make_batches(64)
        several = fs.SieveOptions(agreement=Second(0))
        for settings in ({}, {"method": fs.Full(), "head_start": 64}):
            sieve = fs.Sieve(model, total=64, options=several, **settings)  # type: ignore[arg-type]
            with pytest.raises(fs.ConfigError, match="sharded over the ranks"):
                next(iter(sieve(batches)))
        for sieve in (
            fs.Sieve(model, fs.RandomSubset(0.5), total=64, head_start=0, options=several),
            fs.Sieve(Bag(), total=64, head_start=0, options=several),
            fs.Sieve(model, fs.Manual({}), total=64, head_start=0),  # one process waits for nobody
        ):
            assert len(list(sieve(batches))) > 1
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(["cpu"], "cuda:0"), ([], "cuda:0"), (["cuda:3"], "cuda:3"), (["cpu", "cuda:2"], "cuda:2")],
)
def test_ranks_agree_on_the_gpu_of_the_model(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], expected: str
) -> None:
    """Where no process has chosen its GPU, the current one is the first on all ranks, which nccl
    refuses."""
    made: list[str] = []

    def tensor(values: list[float], dtype: Any, device: str) -> torch.Tensor:
        made.append(device)
        return torch.full((len(values),), 2.0, dtype=dtype)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda group: "cpu:gloo,cuda:nccl")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *given, **more: None)
    monkeypatch.setattr(torch, "tensor", tensor)
    ranks = Ranks(used=lambda: [torch.device(device) for device in devices])
    assert ranks.mean([0.0, 0.0]) == [1.0, 1.0]
    assert made == [expected]


def test_a_sieve_tells_the_ranks_where_its_model_is() -> None:
    assert fs.Sieve(Bag())._together._used() == [torch.device("cpu")]
