"""Ids of the user's own: they ride along, and the model never sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import finesieve as fs
from tests.conftest import Bag, by_hand, ids_of, make_batches, small_sieve


def test_own_ids_are_kept_from_the_model() -> None:
    batches = [dict(b, example=torch.arange(8) + 8 * i) for i, b in enumerate(make_batches(160))]
    sieve = fs.Sieve(
        Bag(), by_hand(), total=160, options=fs.SieveOptions(pool=50, group=1, id_key="example")
    )
    assert ids_of(list(sieve(batches)))
    assert sieve.ledger.examples.scored > 0


def test_own_ids_ride_along() -> None:
    batches = [dict(b, example=torch.arange(8) + 1000 * i) for i, b in enumerate(make_batches(160))]
    out = list(small_sieve(160, id_key="example")(batches))
    assert all(torch.equal(b["sieve_ids"], b["example"]) for b in out)


def test_ids_that_are_no_whole_numbers_are_refused() -> None:
    for ids, said in (
        (["a", "b"], "holds str"),
        (torch.tensor([0.5, 1.5]), "holds torch.float32"),
        (torch.ones(2, 2, dtype=torch.long), r"of shape \(2, 2\)"),
    ):
        batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "id": ids}
        with pytest.raises(fs.BatchError, match=said):
            list(small_sieve(2, id_key="id")([batch]))


def test_ids_in_a_tuple_are_kept_from_the_model() -> None:
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape)
            return torch.stack([x.float().mean(1), -x.float().mean(1)], dim=1)

    data = [
        (torch.randint(0, 9, (8, 4)), torch.arange(i, i + 8), torch.randint(0, 2, (8,)))
        for i in range(0, 400, 8)
    ]
    sieve = fs.Sieve(
        Net(),
        by_hand(),
        total=400,
        options=fs.SieveOptions(
            pool=50,
            group=2,
            id_key=1,
            features=lambda b: fs.Features(
                b[0].numpy().astype(np.int64), np.zeros(len(b[0]), np.int64)
            ),
        ),
    )
    out = list(sieve(data))
    assert seen
    for x, own, labels, riding in out:
        assert x.shape[1:] == (4,)
        assert own.tolist() == riding.ids.tolist()
        assert len(labels) == len(own)
