"""Resuming: at any cut, in any pass, to the bit; and what may not be taken up."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve.batches.carry import ride
from finesieve.batches.codec import Codec
from finesieve.batches.rows import rows_from_state
from tests.conftest import Bag, by_hand, make_batches, small_sieve, train


def _same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _equal(a: Any, b: Any) -> bool:
    """Two states, field by field."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if torch.is_tensor(a):
        a, b = (torch.nan_to_num(x.double(), nan=-7.0) for x in (a, b))
        return torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("warmup", [None, 0.05, 0.15, "budget"])  # by hand, or automatic
@pytest.mark.parametrize("cut", range(1, 46, 2))
def test_resume_at_any_cut_gives_the_same_batches_to_the_bit(
    cut: int, warmup: float | str | None
) -> None:
    batches = make_batches(640)

    def fresh() -> tuple[fs.Sieve, Bag, Any]:
        model = Bag(dropout=0.0)
        method = (
            fs.methods.registry.build(
                "finesieve", predictor_bits=10, budget=0.6, cost_ratio=0.02, patience=40, margin=0.0
            )
            if warmup == "budget"
            else (
                fs.methods.registry.build(
                    "finesieve",
                    predictor_bits=10,
                    patience=60,
                    warmup=warmup,
                    train=0.3,
                    margin=0.0,
                    cost_ratio=0.01,
                )
                if warmup is not None
                else by_hand()
            )
        )
        sieve = fs.Sieve(model, method, total=640, options=fs.SieveOptions(pool=50, group=2))
        return sieve, model, torch.optim.Adam(model.parameters(), lr=0.05)

    sieve, model, optimizer = fresh()
    whole = train(sieve, batches, model, optimizer)
    assert max(m["stage"] for m in sieve.moves) >= 2

    first, model, optimizer = fresh()
    head = train(first, batches, model, optimizer, stop=cut)
    buffer = io.BytesIO()
    torch.save(
        {
            "sieve": first.state_dict(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        buffer,
    )
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    second, model, optimizer = fresh()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    second.load_state_dict(state["sieve"])
    assert _equal(second.state_dict(), state["sieve"])  # nothing was left unrestored
    tail = train(second, batches, model, optimizer) if len(head) == cut else []
    assert len(head) + len(tail) == len(whole)
    assert all(map(_same, whole, head + tail))
    assert second.moves == sieve.moves
    assert second.progress == sieve.progress == pytest.approx(1.0)
    assert second.ledger.examples == sieve.ledger.examples


def test_resume_in_the_second_pass() -> None:
    batches = make_batches(160)

    def run(sieve: fs.Sieve, skip: int = 0) -> Iterator[Any]:
        for _ in range(sieve.passes, 2):
            yield from sieve(batches)

    whole = list(run(small_sieve(320)))
    first = small_sieve(320)
    head = []
    for batch in run(first):
        head.append(batch)
        if first.passes == 1 and len(head) == len(whole) - 2:
            break
    second = small_sieve(320)
    second.load_state_dict(first.state_dict())
    tail = list(run(second))
    assert len(head) + len(tail) == len(whole)
    assert all(map(_same, whole, head + tail))


def test_a_positioned_loader_is_not_skipped_into() -> None:
    batches = make_batches(160)
    whole = list(small_sieve(160)(batches))
    first = small_sieve(160)
    head = [b for _, b in zip(range(3), first(batches), strict=False)]
    state = first.state_dict()
    second = small_sieve(160)
    second.load_state_dict(state)
    rest = batches[state["counters"]["batches_in_pass"] :]
    tail = list(second(rest, positioned=True))
    assert all(map(_same, whole, head + tail))
    third = small_sieve(160)
    third.load_state_dict(state)
    with pytest.raises(fs.StateError, match="the loader ends after 2"):
        list(third(batches[:2]))


def test_what_waited_comes_back_in_the_loaders_form() -> None:
    """Before a batch was drawn: `batch.to(device)` is what a loop does first."""
    from transformers import BatchEncoding

    batches = [BatchEncoding(b) for b in make_batches(160)]
    first = small_sieve(160)
    _ = [b for _, b in zip(range(3), first(batches), strict=False)]
    state = first.state_dict()
    second = small_sieve(160)
    second.load_state_dict(state)
    rest = batches[state["counters"]["batches_in_pass"] :]
    assert all(isinstance(b.to("cpu"), BatchEncoding) for b in second(rest, positioned=True))


def test_state_of_another_sieve_is_refused() -> None:
    state = small_sieve().state_dict()
    with pytest.raises(fs.StateError, match="pool=50, this sieve 64"):
        small_sieve(pool=64).load_state_dict(state)
    with pytest.raises(fs.StateError, match="method='finesieve', this sieve 'full'"):
        fs.Sieve(method="full").load_state_dict(state)
    with pytest.raises(fs.StateError, match=r"version 0, this finesieve reads version [0-9]"):
        small_sieve().load_state_dict({"fingerprint": {"version": 0}})


def test_leaving_a_pass_by_break_and_beginning_anew_skips_nothing() -> None:
    sieve = fs.Sieve(method="full")
    batches = make_batches(80)
    assert len(list(zip(range(4), sieve(batches), strict=False))) == 4
    assert len(list(sieve(batches))) == 10


def test_settings_of_gates_and_predictor_belong_to_the_state() -> None:
    state = small_sieve().state_dict()
    for other in (by_hand(train=0.9), by_hand(audit=0.5)):
        with pytest.raises(fs.StateError, match="build it with the settings"):
            small_sieve(method=other).load_state_dict(state)
    with pytest.raises(fs.StateError, match="group=2, this sieve 3"):
        small_sieve(group=3).load_state_dict(state)


def test_waiting_examples_are_put_where_the_loader_s_batches_are() -> None:
    batches = make_batches(160)
    first = small_sieve(160)
    assert len(list(itertools.islice(first(batches), 6))) == 6
    second = small_sieve(160)
    second.load_state_dict(first.state_dict(), device="meta")
    waiting = [*second._flow.pool, *second._flow.holding._all()]
    assert waiting
    assert {c.device.type for rows in waiting for c in rows.columns.values()} == {"meta"}


@pytest.mark.parametrize("form", ["dict", "tuple", "tensor"])
def test_what_a_host_read_ahead_comes_first(form: str) -> None:
    """A host that is always two batches ahead; saved after every batch."""

    def formed(batch: Any) -> Any:
        batch = {**batch, "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 9))[:, :9]}
        return {
            "dict": batch,
            "tuple": (batch["input_ids"], batch["labels"]),
            "tensor": batch["input_ids"],
        }[form]

    batches = [formed(b) for b in make_batches(160)]

    def fresh() -> fs.Sieve:
        method = fs.methods.registry.build("random", 0, share=0.5)
        return fs.Sieve(method=method, total=160, options=fs.SieveOptions(pool=30, group=1))

    def plain(batch: Any) -> list[Any]:
        ids, weights = ride(batch)
        bare = fs.inputs(batch)
        parts = list(bare.values()) if form == "dict" else [bare] if form == "tensor" else bare
        return [ids.tolist(), weights.tolist(), *(p.tolist() for p in parts)]

    whole = [plain(b) for b in fresh()(batches)]
    for cut in range(1, len(whole) - 2):
        first = fresh()
        stream = first(batches)
        taken = [next(stream) for _ in range(cut + 2)]
        buffer = io.BytesIO()
        torch.save(first.state_dict(taken[cut:]), buffer)
        buffer.seek(0)
        second = fresh()
        second.load_state_dict(torch.load(buffer, weights_only=True))
        rest = second(batches)
        assert plain(next(rest)) == whole[cut]
        third = fresh()  # interrupted again before the second was trained on
        third.load_state_dict(second.state_dict())
        tail = [plain(b) for b in third(batches)]
        assert tail == whole[cut + 1 :] == [plain(b) for b in rest]
        assert third.ledger.examples == second.ledger.examples
        assert third.progress == 1.0


def test_what_waited_is_put_where_the_loader_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that resumes may not know where the loader's batches lie."""
    sieve, model = small_sieve(), Bag()
    train(sieve, make_batches(), model, torch.optim.SGD(model.parameters(), 0.1), stop=16)
    state = sieve.state_dict()
    waiting = sum(
        len(r["ids"])
        for part in (state["pool"], state["holding"]["held"], state["holding"]["ready"])
        for r in part
    )
    assert waiting > 0
    moved: list[int] = []
    place = Codec.place_like
    monkeypatch.setattr(
        Codec,
        "place_like",
        staticmethod(lambda rows, batch: (moved.append(len(rows)), place(rows, batch))),
    )
    again = small_sieve()
    again.load_state_dict(state)
    list(again(make_batches()))
    assert sum(moved) == waiting + len(state["filler"]["ids"])
    rows = rows_from_state(state["pool"][0] if state["pool"] else state["holding"]["held"][0])
    batch = {k: v.to("meta") for k, v in make_batches(8)[0].items()}
    rows.columns["sieve_prefix"] = torch.zeros(len(rows), 2, 2)
    place(rows, batch)
    assert {k: v.device.type for k, v in rows.columns.items()} == {
        "input_ids": "meta",
        "attention_mask": "meta",
        "labels": "meta",
        "sieve_prefix": "cpu",
    }


class Knows(fs.Gate):
    """A gate that holds itself, and two parts that hold each other."""

    def __init__(self, share: float = 0.5) -> None:
        self.itself, self.left, self.right = self, Part(share), Part(share)
        self.left.other, self.right.other = self.right, self.left

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        return fs.Verdict(np.ones(offer.n, dtype=bool))


class Part:
    def __init__(self, share: float) -> None:
        self.share, self.other = share, None


def test_a_gate_whose_parts_hold_each_other_is_described() -> None:
    state = fs.Sieve(method=fs.Method("mine", Knows(), fs.Open(), fs.Fixed({3: 0.0}))).state_dict()
    told = state["fingerprint"]["forward"]
    assert "itself=Knows," in told
    assert told.count("share=0.5") == 4  # each of the two parts, and in it the other one
    other = fs.Sieve(method=fs.Method("mine", Knows(0.4), fs.Open(), fs.Fixed({3: 0.0})))
    with pytest.raises(fs.StateError, match=r"share=0\.5"):
        other.load_state_dict(state)
