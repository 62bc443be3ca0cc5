"""Batches of every kind come back as what they were, with their columns and padding."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch

import finesieve as fs
from tests.conftest import by_hand, make_batches, small_sieve


@pytest.mark.parametrize("kind", ["tuple", "list", "tensor", "strings"])
def test_other_kinds_of_batches(kind: str) -> None:
    x = torch.arange(60.0).reshape(60, 1)
    make = {
        "tuple": lambda s: (x[s], x[s, 0].long()),
        "list": lambda s: [x[s], x[s, 0].long()],
        "tensor": lambda s: x[s],
        "strings": lambda s: {"text": [f"text {i}" for i in x[s, 0].tolist()], "x": x[s]},
    }[kind]
    batches = [make(slice(i, i + 10)) for i in range(0, 60, 10)]
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=20, group=1),
    )
    for batch in sieve(batches):
        bare = fs.inputs(batch)
        ids = fs.batches.carry.ride(batch).ids
        value = bare if kind == "tensor" else bare["x"] if kind == "strings" else bare[0]
        assert value[:, 0].tolist() == ids.tolist()
        if kind == "strings":
            assert bare["text"] == [f"text {float(i)}" for i in ids.tolist()]
        else:
            assert type(bare) is type(batches[0])
    assert 0 < sieve.ledger.examples.yielded < 60


def test_a_batch_encoding_stays_one() -> None:
    from transformers import BatchEncoding

    batches = [BatchEncoding(b) for b in make_batches(64)]
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=16, group=1),
    )
    for batch in sieve(batches):
        assert isinstance(batch.to("cpu"), BatchEncoding)


class Fixed(Mapping[str, Any]):
    """Can be read, and made from a dict, and never changed."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, key: str) -> Any:
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


KINDS = {
    "fixed": (Fixed, Fixed),
    "proxy": (MappingProxyType, MappingProxyType),
    "ordered": (OrderedDict, OrderedDict),
    "user": (UserDict, UserDict),
    "default": (lambda columns: defaultdict(list, columns), dict),  # not made from a dict
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_mapping_comes_back_as_its_kind(kind: str) -> None:
    """With the default method, through all stages: a dict where the kind cannot be made of one."""
    make, expected = KINDS[kind]
    data = make_batches(400)
    plain = list(small_sieve()(data))
    sieve = small_sieve()
    found = list(sieve([make(batch) for batch in data]))
    assert sieve.stage == 3
    assert len(found) == len(plain)
    for batch, same in zip(found, plain, strict=True):
        assert type(batch) is type(fs.inputs(batch)) is expected
        assert set(fs.inputs(batch)) == set(data[0])
        assert set(batch) == {*data[0], "sieve_ids", "sieve_weights"}
        assert all(torch.equal(batch[key], same[key]) for key in same)
    bare = small_sieve(id_key="own")
    for batch in bare([make({**b, "own": torch.arange(8)}) for b in data]):
        assert batch["own"].tolist() == batch["sieve_ids"].tolist()


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_default_method_takes_batches_without_names(kind: type[Any]) -> None:
    """And decides as on dicts: tokens and labels are found by their form."""

    class Net(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            first = input_ids[:, 0].float() / 100
            return torch.stack([first, -first], dim=1)

    dice = torch.Generator().manual_seed(0)
    data = [
        (torch.randint(1, 99, (8, 5), generator=dice), torch.randint(0, 2, (8,), generator=dice))
        for _ in range(50)
    ]
    ids = []
    for batches in (
        [dict(zip(("input_ids", "labels"), b, strict=True)) for b in data],
        [kind(b) for b in data],
    ):
        sieve = fs.Sieve(Net(), by_hand(), total=400, options=fs.SieveOptions(pool=50, group=2))
        ids.append([fs.batches.carry.ride(batch).ids.tolist() for batch in sieve(batches)])
        assert sieve.stage == 3
        assert sieve.ledger.examples.dropped > 100
    assert ids[0] == ids[1]


def test_columns_that_only_look_like_token_columns_are_left_alone() -> None:
    """A multi-hot column as wide as some batches, and one with a place for every token."""
    batches = []
    for b in make_batches(320):
        n, width = b["input_ids"].shape
        boxes = b["input_ids"][:, :, None].expand(n, width, 4).clone()
        batches.append(dict(b, hot=torch.ones(n, 12), boxes=boxes))
    assert {b["input_ids"].shape[1] for b in batches} >= {11, 12}
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=100, group=2),
    )
    for batch in sieve(batches):
        assert (batch["hot"] == 1).all()
        assert batch["hot"].shape[1] == 12
        assert torch.equal(batch["boxes"][:, :, 3], batch["input_ids"])


def test_pad_values_are_learned_and_left_padding_stays_left() -> None:
    batches = []
    for b in make_batches(320):
        flipped = {k: v.flip(1) if v.ndim == 2 else v for k, v in b.items()}
        flipped["input_ids"][flipped["attention_mask"] == 0] = 77
        batches.append(flipped)
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=64, group=2),
    )
    for batch in sieve(batches):
        mask = batch["attention_mask"]
        assert (mask.diff(dim=1) >= 0).all()  # zeros first
        assert (batch["input_ids"][mask == 0] == 77).all()
