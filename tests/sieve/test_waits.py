"""How often the program waits for a device that runs ahead: never while gates are open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods
from finesieve.batches.carry import inputs
from finesieve.batches.device import to_device
from tests.conftest import make_batches
from tests.far import FAR, Far, far


class Bags(nn.Module):
    """Two classes from a bag of tokens; `words` instead: a class of 5 for every token."""

    def __init__(self, words: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = words
        self.embed = nn.Embedding(128, 5 if words else 2)
        self.embed.weight.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        each: Tensor = self.embed(input_ids) * attention_mask[..., None]
        return each if self.words else each.sum(1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    with far(monkeypatch) as found:
        yield found


def words(batches: list[Any]) -> list[Any]:
    """The same batches with a label for every token."""
    return [
        {**b, "labels": torch.where(b["attention_mask"] > 0, b["input_ids"] % 5, -100)}
        for b in batches
    ]


def run(
    device: Far, method: Any, tokens: bool, shift: bool = False
) -> tuple[fs.Sieve, list[tuple[int, str, int]]]:
    """Trains without a step; returns the sieve and, batch by batch, its size, the stage and how
    often the program had waited until then."""
    model = Bags(tokens)
    model.embed.weight = nn.Parameter(to_device(model.embed.weight, FAR), requires_grad=False)
    head = fs.heads.Tokens(shift=shift) if tokens else fs.heads.SingleLabel()
    batches = make_batches(512, batch=16)
    data = words(batches) if tokens else batches
    sieve = fs.Sieve(
        model, method, head=head, total=1024, options=fs.SieveOptions(pool=64, clock=lambda: 0.0)
    )
    seen = []
    for batch in sieve(data):
        given = {k: to_device(v, FAR) for k, v in batch.items()}
        labels = given["labels"]
        columns = {k: v for k, v in inputs(given).items() if k != "labels"}
        logits = model(**columns)
        if tokens:
            losses, sizes = head.both(logits, given)  # as the Trainer's hosts tell them
            sieve.loss(losses, given, sizes)
        else:
            sieve.loss(F.cross_entropy(logits, labels, reduction="none"), given)
        seen.append((len(labels), str(sieve.stage), len(device.waits)))
    return sieve, seen


KINDS = [(False, False), (True, False), (True, True)]  # classes, a class a token, the next token


@pytest.mark.parametrize(("tokens", "shift"), KINDS)
def test_nothing_waits_while_gates_are_open(device: Far, tokens: bool, shift: bool) -> None:
    # Gates that are open for good; the policy looks at every loss that comes back.
    method = methods.registry.build("finesieve", 0, starts={2: 1.0}, predictor_bits=10)
    sieve, seen = run(device, method, tokens, shift)
    assert {stage for _, stage, _ in seen} == {"1"}
    waits = [count for _, _, count in seen]
    assert waits[0] <= 1  # the trial of the scorer before anything is trained reads its two scores
    assert waits[-1] == waits[0], device.waits
    assert len(device.waits) == waits[0] + 1  # for the last losses, at the end of the pass
    assert sieve.window.revealed == 512  # all losses were read, the last ones at the end


@pytest.mark.parametrize("start", [2, 3])
@pytest.mark.parametrize(("tokens", "shift"), KINDS)
def test_closed_gates_wait_once_a_pool(device: Far, tokens: bool, shift: bool, start: int) -> None:
    method = methods.registry.build("finesieve", 0, starts={start: 0.0}, predictor_bits=10)
    sieve, _ = run(device, method, tokens, shift)
    assert sieve.ledger.examples.drawn == 512
    assert sieve.ledger.examples.scored > 0
    assert len(device.waits) == 512 // 64 + 1, device.waits  # and for the last losses of the pass


def test_a_state_may_be_saved_while_losses_are_on_the_device(device: Far) -> None:
    """What was saved is on the host then, and what comes back later is on the device."""
    model = Bags(words=False)
    model.embed.weight = nn.Parameter(to_device(model.embed.weight, FAR), requires_grad=False)
    method = methods.registry.build("finesieve", 0, starts={2: 1.0}, predictor_bits=10)
    options = fs.SieveOptions(pool=64, clock=lambda: 0.0)
    sieve = fs.Sieve(model, method, head=fs.heads.SingleLabel(), total=1024, options=options)
    for count, batch in enumerate(sieve(make_batches(512, batch=16))):
        given = {k: to_device(v, FAR) for k, v in batch.items()}
        logits = model(**{k: v for k, v in inputs(given).items() if k != "labels"})
        sieve.loss(F.cross_entropy(logits, given["labels"], reduction="none"), given)
        if count == 3:
            sieve.state_dict()
    assert sieve.window.revealed == 512


def test_a_wait_is_noticed(device: Far) -> None:
    there = to_device(torch.ones(3), FAR)
    assert device.waits == []
    assert there.sum().item() == 3.0
    assert device.waits == ["_local_scalar_dense"]
    there.cpu()
    torch.ones(3).to(FAR)
    assert device.waits[1:] == ["_to_copy", "_to_copy"]
