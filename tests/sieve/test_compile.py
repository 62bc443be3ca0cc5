"""Fixed lengths for compiled models: few shapes, no more compilations, the same training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods
from finesieve.batches.carry import inputs
from finesieve.errors import BatchError, ConfigError
from finesieve.scoring.batches import cut_alike


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner, self.out = nn.Embedding(60, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = torch.tanh(self.inner(self.embed(input_ids))) * attention_mask[..., None]
        pooled: Tensor = self.out(hidden.sum(1) / attention_mask.sum(1, keepdim=True))
        return pooled


def batches(n: int = 60, size: int = 16, left: bool = False) -> list[dict[str, Any]]:
    dice = np.random.default_rng(0)
    made = []
    for _ in range(n):
        lengths = dice.integers(3, 30, size)
        real = torch.arange(int(lengths.max()))[None] < torch.from_numpy(lengths)[:, None]
        ids = torch.from_numpy(dice.integers(3, 60, real.shape)) * real
        labels = (ids[:, 0] > 30).long()
        if left:
            real, ids = real.flip(1), ids.flip(1)
        made.append({"input_ids": ids, "attention_mask": real.long(), "labels": labels})
    return made


def run(net: Any, **options: Any) -> tuple[fs.Sieve, set[tuple[int, ...]], list[Tensor]]:
    method = methods.registry.build(
        "finesieve", 0, train=0.3, score=0.6, starts={2: 0.15, 3: 0.4}, cost_ratio=0.2
    )
    data = batches(left=options.pop("left", False))
    sieve = fs.Sieve(
        net,
        method,
        total=960,
        options=fs.SieveOptions(batch_size=8, pool=64, group=2, **options),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    shapes = set()
    for batch in sieve(data):
        shapes.add(tuple(batch["input_ids"].shape))
        given = {k: v for k, v in inputs(batch).items() if k != "labels"}
        losses = F.cross_entropy(net(**given), batch["labels"], reduction="none")
        sieve.loss(losses, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return sieve, shapes, [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("left", [False, True])
def test_padding_to_fixed_lengths_changes_the_shapes_alone(left: bool) -> None:
    plain, many, a = run(Net(), left=left)
    fixed, few, b = run(Net(), left=left, lengths=[8, 16, 32], scoring_batch=16)
    assert len(many) > 12
    assert {width for _, width in few} <= {8, 16, 32}
    assert plain.ledger.examples == fixed.ledger.examples
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_a_compiled_model_is_compiled_once_a_shape_and_no_more() -> None:
    """Each of three lengths: once for the loader's batches, once for the survivors, once for
    scoring, where it occurs; and once for a last, smaller batch."""
    torch._dynamo.reset()
    counter = CompileCounter()
    sieve, shapes, _ = run(
        torch.compile(Net(), backend=counter, dynamic=False), lengths=[8, 16, 32], scoring_batch=16
    )
    assert sieve.stage == 3
    full = {s for s in shapes if s[0] in (8, 16)}
    assert len(full) <= 6
    assert len(shapes) <= len(full) + 1
    assert counter.frame_count <= len(shapes) + 3
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
def test_inductor_compiles_once_a_shape_and_trains_alike() -> None:
    """The compiler itself; needs one for C++."""
    torch._dynamo.reset()
    counters.clear()
    fixed: dict[str, Any] = {"lengths": [8, 16, 32], "scoring_batch": 16}
    _, _, plain = run(Net(), **fixed)
    sieve, shapes, found = run(torch.compile(Net(), dynamic=False), **fixed)
    assert sieve.stage == 3
    assert len({width for _, width in shapes}) >= 2
    assert len(shapes) <= 7
    assert 0 < counters["stats"]["unique_graphs"] <= len(shapes) + 3
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_a_compiled_model_without_fixed_lengths_is_made_dynamic() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    _, shapes, _ = run(torch.compile(Net(), backend=counter))
    assert len(shapes) > 12
    assert counter.frame_count <= 6  # training and scoring: as they come first, then for any shape
    torch._dynamo.reset()


def test_batches_are_cut_at_the_lengths() -> None:
    lengths = np.array([1, 2, 8, 9, 9, 10, 20])
    cuts = cut_alike(lengths, 2, [8, 16, 32])
    assert [list(lengths[c]) for c in cuts] == [[1, 2], [8], [9, 9], [10], [20]]
    assert cut_alike(lengths[:0], 2, [8]) == []


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="lengths is"):
        fs.Sieve(method="full", options=fs.SieveOptions(lengths=[0, 8]))
    with pytest.raises(BatchError, match=r"has 25 tokens, .*\[8, 16\]"):
        run(Net(), lengths=[16, 8])
    bare = [{"input_ids": b["input_ids"]} for b in batches(1)]
    with pytest.raises(BatchError, match="attention_mask"):
        list(fs.Sieve(method="full", options=fs.SieveOptions(lengths=[32]))(bare))
