"""What a run showed of each example."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import finesieve
from finesieve.sieve.record import Record, Spikes


def trained(ids: list[int], loss: list[float]) -> dict[str, object]:
    return {"event": "trained", "ids": np.array(ids), "loss": np.array(loss, dtype=np.float32)}


@pytest.mark.parametrize("method", ["full", "finesieve"])
def test_every_example_of_a_run_is_in_its_insights(method: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(640, 6), torch.arange(640) % 3
    x[:, 0] += 4 * y
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    recipe = finesieve.Full() if method == "full" else finesieve.Manual({2: 0.3}, cost_ratio=0.2)
    sieve = finesieve.Sieve(
        model, recipe, total=1280, options=finesieve.SieveOptions(id_key=2, pool=64)
    )
    for _ in range(2):
        batches = [
            (x[i : i + 32], y[i : i + 32], torch.arange(i, i + 32)) for i in range(0, 640, 32)
        ]
        for batch in sieve(batches):
            losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
            sieve.loss(losses, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    table = sieve.insights
    assert table["id"].tolist() == list(range(640))
    assert np.isfinite(table["first_loss"]).all()
    assert table["last_loss"].mean() < table["first_loss"].mean()
    if method == "full":
        assert set(table["times"]) == {2}
    else:  # what was only scored counts too, and its gradient norm is known
        assert (table["trained"] < table["times"]).any()
        assert np.isfinite(table["gradient_norm"]).mean() > 0.5
    assert table.to_pandas().shape == (640, 6)


def test_old_observations_are_forgotten() -> None:
    record = Record(most=5)
    for i in range(4):
        record(trained([2 * i, 2 * i + 1], [1.0, 2.0]))
    assert record.history()["id"].tolist() == [4, 5, 6, 7]


def test_a_million_small_batches_take_the_memory_of_their_numbers() -> None:
    """Batches of one example, each loss a view of many: 17 bytes an observation, and a little."""
    record, few = Record(), 20_000
    tracemalloc.start()
    for i in range(few):
        losses = np.zeros(100, dtype=np.float32)
        record({"event": "trained", "ids": np.array([i]), "loss": losses[:1]})
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.history().rows == few
    assert taken < 17 * few + 4096 * 1000


def test_first_and_last_loss_and_times() -> None:
    record = Record()
    record(trained([7, 3], [1.0, 2.0]))
    record(trained([3], [0.5]))
    table = record.table()
    assert table["id"].tolist() == [3, 7]
    assert table["times"].tolist() == table["trained"].tolist() == [2, 1]
    assert table["first_loss"].tolist() == [2.0, 1.0]
    assert table["last_loss"].tolist() == [0.5, 1.0]
    assert Record().table().rows == 0


def test_a_spike_names_its_examples_the_largest_loss_first() -> None:
    told: list[tuple[list[int], float]] = []
    spikes = Spikes(lambda ids, losses: told.append((ids.tolist(), float(losses[0]))))
    dice = np.random.default_rng(0)
    for _ in range(40):
        spikes(trained([0, 1], (1 + 0.1 * dice.standard_normal(2)).tolist()))
    assert told == []
    spikes(trained([8, 9], [1.0, 30.0]))
    assert told == [([9, 8], 30.0)]
