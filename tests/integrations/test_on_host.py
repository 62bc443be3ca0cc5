"""Batches of Accelerate's loaders stay on the host as long as a sieve takes them apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, prepare_data_loader
from accelerate.state import PartialState
from torch.utils.data import DataLoader, IterableDataset

from finesieve.integrations.common import on_host

THERE = torch.device("meta")  # a device that is always there


class Numbers(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        yield from torch.arange(8)


class There:
    """The process's state, as if its device were another."""

    device = THERE

    def __getattr__(self, name: str) -> Any:
        return getattr(PartialState(), name)


@pytest.mark.parametrize("dispatches", [False, True])
def test_batches_stay_until_they_are_placed(dispatches: bool) -> None:
    loader: Any = DataLoader(Numbers(), batch_size=4)
    loader = prepare_data_loader(
        loader, device=THERE, put_on_device=True, dispatch_batches=dispatches
    )
    assert isinstance(loader, DataLoaderDispatcher if dispatches else DataLoaderShard)
    if dispatches:
        loader.state = There()
    assert [batch.device for batch in loader] == [THERE, THERE]
    with on_host(loader) as place:
        batches = list(loader)
        assert torch.cat(batches).tolist() == list(range(8))
        assert [place(batch).device for batch in batches] == [THERE, THERE]
    assert [batch.device for batch in loader] == [THERE, THERE]


def test_a_loader_that_leaves_batches_on_the_host_is_left_alone() -> None:
    loader: Any = prepare_data_loader(DataLoader(Numbers(), batch_size=4), dispatch_batches=False)
    with on_host(loader) as place:
        for batch in loader:
            assert place(batch) is batch
