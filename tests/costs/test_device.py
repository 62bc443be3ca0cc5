"""On a device that runs behind the program every host measures what things cost, and waits little.

The models are tiny and run on the CPU; the seconds are those of a simulated device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.scoring.protocol import Scores
from tests.conftest import Bag, TableScorer, make_batches, train
from tests.costs.simulated import Cost, Device

LAUNCHES = Cost(0.024, 1e-6), Cost(0.008, 4e-7)  # a thousand kernels a step, and short texts
COMPUTE = Cost(1e-4, 1e-3), Cost(4e-5, 3.3e-4)
N, POOL = 640, 48


def method() -> fs.Method:
    """Gates close by hand, and costs are as measured."""
    return fs.methods.registry.build("finesieve", 0, predictor_bits=12, starts={2: 0.4}, train=0.4)


def plain(device: Device, folder: Path) -> fs.Sieve:
    model: Any = device.run(Bag(dropout=0.0))
    options = fs.SieveOptions(pool=POOL, group=2)
    sieve = fs.Sieve(
        model, method(), total=N, head=fs.heads.SingleLabel(), head_start=0, options=options
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(sieve, make_batches(N), model, optimizer)
    return sieve


@pytest.mark.parametrize(
    ("costs", "group", "pool"), [(LAUNCHES, 4, 512), (COMPUTE, 16, 256)], ids=["launch", "not"]
)
def test_where_launches_bind_pools_are_larger_and_fewer_survivors_are_gathered(
    costs: tuple[Cost, Cost], group: int, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(*costs, first=5.0, shape=0.002, noise=0.05)
    device.install(monkeypatch)
    model: Any = device.run(Bag(dropout=0.0))
    pools: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "pool":
            pools.append(len(event["ids"]))

    n = 4 * N
    sieve = fs.Sieve(
        model, method(), total=n, head=fs.heads.SingleLabel(), head_start=0,
        options=fs.SieveOptions(listeners=[listen]),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(sieve, make_batches(n), model, optimizer)
    assert sieve._flow.holding.group == group
    assert set(pools[:-1]) == {pool}  # the last is what is left


def in_trainer(device: Device, folder: Path) -> fs.Sieve:
    pytest.importorskip("transformers")
    from tests.integrations.transformers.kit import Data, model, trainer

    host = trainer(folder, device.run(model()), Data(N), num_train_epochs=1)
    attached: Any = fs.attach(host, method(), pool=POOL, group=2, head_start=0)
    host.train()
    return attached.sieve


def in_accelerate(device: Device, folder: Path) -> fs.Sieve:
    pytest.importorskip("accelerate")
    from tests.integrations.accelerate.ranks import Run

    options = {"pool": POOL, "group": 2, "head_start": 0}
    run = Run(method(), n=N, epochs=1, model=lambda: device.run(Bag(dropout=0.0)), options=options)
    return run.stream.sieve


def in_lightning(device: Device, folder: Path) -> fs.Sieve:
    pytest.importorskip("lightning")
    from tests.integrations.lightning.kit import Classifier, loader, sieved, trainer

    callback = sieved(method(), pool=POOL, head_start=0)
    host = trainer(folder, callback, max_epochs=2)
    module = Classifier(callback)
    device.run(module.bag)
    host.fit(module, callback(loader()))
    assert callback.sieve is not None
    return callback.sieve


HOSTS = [plain, in_accelerate, in_lightning]
RUNS = [pytest.param(in_trainer, LAUNCHES, id="in_trainer-launches")]
RUNS += [pytest.param(in_trainer, COMPUTE, id="in_trainer-compute", marks=pytest.mark.slow)]
for _host in HOSTS:
    RUNS += [pytest.param(_host, LAUNCHES, id=f"{_host.__name__}-launches")]
    RUNS += [pytest.param(_host, COMPUTE, id=f"{_host.__name__}-compute")]


@pytest.mark.filterwarnings("ignore")  # hints of the hosts about workers and the like
@pytest.mark.parametrize(("host", "costs"), RUNS)
def test_every_host_measures_what_scoring_costs(
    host: Callable[[Device, Path], fs.Sieve],
    costs: tuple[Cost, Cost],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(*costs, first=5.0, shape=0.002, noise=0.05)
    device.install(monkeypatch)
    sieve = host(device, tmp_path)
    assert [move["stage"] for move in sieve.moves] == [1, 2]
    pools = 0.6 * sieve.ledger.examples.drawn / POOL
    assert pools >= 8
    train, score = device.calls["train"], device.calls["score"]
    opened = device.per_token("train", train[: device.before])
    # Recent ones, without the rest at the end.
    assert sieve.meter.relative("score") == pytest.approx(
        device.per_token("score", score[5:-1]) / opened, rel=0.1
    )
    assert sieve.meter.relative("closed") == pytest.approx(
        device.per_token("train", train[device.before :][-33:-1]) / opened, rel=0.1
    )
    # Survivors come in full batches, and a pool in one forward, where launches are all.
    assert max(examples for examples, *_ in train[-8:]) == (8 if costs is LAUNCHES else 4)
    assert (len(score) <= 1.5 * pools + 1) == (costs is LAUNCHES)
    # Nothing waits for the sake of a clock; and who reads the books has all seconds there.
    # The Trainer's loss is compared with ours for each open batch, and read at once where tensors
    # are the CPU's, as here. On a GPU it is not (tests/far.py has tensors that say so).
    compared = device.before if host is in_trainer else 0
    assert device.waits <= 2 * pools + 4 + compared  # for its scores, and for losses of training
    books = sieve.ledger.seconds
    assert sum(books.values()) == pytest.approx(device.now, rel=0.02)


class Scoring(TableScorer):
    """Scores that never change, of a pass on the simulated device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __call__(self, batch: Any) -> Scores:
        mask = batch["attention_mask"]
        self._device.call("score", *mask.shape, int(mask.sum()))
        self._device.wait()
        return super().__call__(batch)


def run(
    device: Device,
    patch: pytest.MonkeyPatch,
    n: int,
    each: Callable[[fs.Sieve], None] = lambda sieve: None,
    **settings: Any,
) -> fs.Sieve:
    """A plain loop with gates that close by themselves; `each` is called after every step."""
    device.install(patch)
    given = {"predictor_bits": 12, "patience": 256, "warmup": 0.0, "train": 0.3, **settings}
    sieve = fs.Sieve(
        scorer=Scoring(device),
        method=fs.methods.registry.build("finesieve", 0, **given),
        total=n,
        options=fs.SieveOptions(pool=64, group=2),
    )
    for batch in sieve(make_batches(n)):
        mask = batch["attention_mask"]
        device.call("train", *mask.shape, int(mask.sum()))
        sieve.loss((batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2, batch)
        each(sieve)
    return sieve


def test_cheap_scoring_closes_gates_and_dear_scoring_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheap = run(Device(*LAUNCHES, noise=0.05), monkeypatch, 1500)
    assert cheap.stage > 1
    assert cheap.costs[0] < 0.12
    device = Device(LAUNCHES[0], Cost(0.5, 1e-6), noise=0.05)  # 2.6 plain steps a pool
    dear = run(device, monkeypatch, 2500)
    assert [move["stage"] for move in dear.moves][-1] == 1
    assert "skipping does not pay" in dear.moves[-1]["reason"]


def test_first_launches_close_no_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new shape takes two plain steps, and the first pass two hundred."""
    sieve = run(Device(*LAUNCHES, first=5.0, shape=0.05), monkeypatch, 1500)
    assert [move["stage"] for move in sieve.moves if move["stage"] == 1] == [1]
    assert sieve.costs[0] < 0.12


def test_a_door_that_a_wrong_price_opened_is_closed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While gates are closed for the first time another program slows scoring down."""
    device = Device(*LAUNCHES, noise=0.05)
    busy, usual = Cost(1.0, 1e-6), device.costs["score"]

    def disturb(sieve: fs.Sieve) -> None:
        opened_again = [move["stage"] for move in sieve.moves].count(1) > 1
        device.costs["score"] = usual if opened_again else busy

    sieve = run(device, monkeypatch, 6000, disturb)
    stages = [move["stage"] for move in sieve.moves]
    assert stages.count(1) == 2
    assert stages[-1] > 1
    assert sieve.costs[0] < 0.12
    again = stages.index(1, 1)
    drawn = sieve.moves[again + 1]["from_example"] - sieve.moves[again]["from_example"]
    looks = [call for call in device.calls["score"] if call[0] == 8]
    assert 2 <= len(looks) <= 6  # two passes a look
    assert len(looks) * usual.launch <= 0.01 * drawn / 8 * LAUNCHES[0].launch


@pytest.mark.parametrize("costs", [LAUNCHES, COMPUTE], ids=["launches", "compute"])
def test_a_device_that_becomes_slower_opens_no_gate(
    costs: tuple[Cost, Cost], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain training, which is not timed meanwhile, became slower too."""
    device = Device(*costs, noise=0.05)

    def slow(sieve: fs.Sieve) -> None:
        if sieve.meter.drawn > 4000:
            device.slower = 3.0

    sieve = run(device, monkeypatch, 8000, slow)
    assert [move["stage"] for move in sieve.moves].count(1) == 1
    train, score = device.calls["train"], device.calls["score"]
    fair = device.per_token("score", score[-24:-1]) / device.per_token("train", train[:30])
    assert sieve.meter.relative("score") == pytest.approx(fair, rel=0.15)
