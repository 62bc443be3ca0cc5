"""A pass that is resumed goes on in the order in which it began, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.batches.codec import Codec
from finesieve.sieve.place import Place
from tests.conftest import make_batches, small_sieve

BATCHES = make_batches(160)


def interrupted(batches: list[Any], passes: int = 1, at: int = 3) -> dict[str, Any]:
    """The state of a sieve that was interrupted in the pass after so many."""
    sieve = small_sieve(total=640)
    for _ in range(passes):
        for _ in sieve(batches):
            pass
    stream = sieve(batches)
    for _ in range(at):
        next(stream)
    assert sieve.position > 1
    return sieve.state_dict()


def resumed(state: dict[str, Any], batches: list[Any], **kind: Any) -> int:
    sieve = small_sieve(total=640)
    sieve.load_state_dict(state)
    return sum(1 for _ in sieve(batches, **kind))


def tokens_alone(batch: Any) -> Any:
    return torch.nn.functional.pad(batch["input_ids"], (0, 12 - batch["input_ids"].shape[1]))


def labels_alone(batch: Any) -> Any:
    return {"labels": torch.arange(8) + batch["input_ids"][:, 0]}


def words(batch: Any) -> Any:
    return {"text": [" ".join(map(str, row)) for row in batch["input_ids"].tolist()]}


def numbers(batch: Any) -> Any:
    return {"x": batch["input_ids"][:, :2].float() / 7.0}


@pytest.mark.parametrize("form", [dict, tokens_alone, labels_alone, words, numbers])
def test_another_order_is_refused(form: Callable[[Any], Any]) -> None:
    """Whatever the batches are made of."""
    method = fs.methods.registry.build("random", share=0.5)
    batches = [form(batch) for batch in BATCHES]

    def fresh() -> fs.Sieve:
        return fs.Sieve(method=method, total=160, options=fs.SieveOptions(pool=24, group=1))

    first = fresh()
    stream = first(batches)
    next(stream)
    state, at = first.state_dict(), first.position
    second = fresh()
    second.load_state_dict(state)
    other = [*batches[: at - 1], *batches[at:], batches[at - 1]]
    with pytest.raises(fs.StateError, match="has other examples now: it shuffles anew"):
        next(second(other))
    third = fresh()
    third.load_state_dict(state)
    next(third(batches))


def test_a_loader_that_shuffles_anew_in_the_second_pass_is_refused() -> None:
    """Torch's DataLoader draws another order in each pass, and the first one when it is made."""

    def loader() -> Any:
        torch.manual_seed(0)
        rows = [{k: v[i] for k, v in b.items()} for b in make_batches(160, 1) for i in range(1)]
        rows = [{**r, "input_ids": r["input_ids"][:2], "attention_mask": r["attention_mask"][:2]}
                for r in rows]  # fmt: skip
        return torch.utils.data.DataLoader(rows, 8, shuffle=True)

    first, data = small_sieve(total=320), loader()
    for _ in first(data):
        pass
    stream = first(data)
    for _ in range(3):
        next(stream)
    state = first.state_dict()
    with pytest.raises(fs.StateError, match=r"generator\.manual_seed\(seed \+ sieve\.passes\)"):
        resumed({**state, "fingerprint": {**state["fingerprint"], "total": 640}}, loader())


def test_the_place_is_not_asked_for_where_the_loader_starts_there() -> None:
    state = interrupted(BATCHES)
    rest = BATCHES[state["counters"]["batches_in_pass"] :]
    assert resumed(state, rest[::-1], positioned=True) > 0


def test_an_empty_batch_drawn_last_is_no_other_order() -> None:
    empty = {k: v[:0] for k, v in BATCHES[0].items()}
    batches = [*BATCHES[:2], empty, *BATCHES[2:]]
    first = small_sieve(total=640, method=fs.methods.registry.build("full"))
    stream = first(batches)
    for _ in range(2):
        next(stream)
    state = first.state_dict()
    state["counters"]["batches_in_pass"] += 1  # the empty one, looked for what comes next
    second = small_sieve(total=640, method=fs.methods.registry.build("full"))
    second.load_state_dict(state)
    assert sum(1 for _ in second(batches)) == len(BATCHES) - 2


def test_of_images_a_few_places_are_remembered() -> None:
    """A copy of all of them would take as long as loading them."""
    images = torch.rand(4, 8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    batches = [{"pixels": x, "target": x[:, 0, 0, 0]} for x in images]
    codec, place = Codec(), Place()
    first, second = (codec.unpack(batch, 0) for batch in batches[:2])
    place.note(first, given=True)
    assert place._drawn is not None
    _, kept = place._drawn
    numbers = sum(column.numel() for column in kept if isinstance(column, torch.Tensor))
    assert numbers < 0.1 * batches[0]["pixels"].numel()
    place.check(first, 1)
    with pytest.raises(fs.StateError, match="other examples"):
        place.check(second, 1)


def test_examples_with_ids_are_known_again_whatever_the_collate_function_draws() -> None:
    def numbered(seed: int) -> list[Any]:
        dice = torch.Generator().manual_seed(seed)
        return [
            {**b, "id": torch.arange(8 * i, 8 * i + 8)}
            | {"input_ids": torch.randint(1, 100, b["input_ids"].shape, generator=dice)}
            for i, b in enumerate(BATCHES)
        ]

    first = small_sieve(total=640, id_key="id")
    next(first(numbered(0)))
    state = first.state_dict()
    for batches, refused in ((numbered(1), False), (numbered(1)[::-1], True)):
        second = small_sieve(total=640, id_key="id")
        second.load_state_dict(state)
        if refused:
            with pytest.raises(fs.StateError, match="id_key=, by which batches are compared"):
                next(second(batches))
        else:
            assert next(second(batches))["id"].tolist() == list(range(8, 16))


def test_a_longer_run_goes_on_and_a_shorter_one_is_refused() -> None:
    """More epochs for a run that is resumed, also for one that had ended."""
    for stop in (None, 30):
        first = small_sieve(total=160)
        for made, _ in enumerate(first(BATCHES)):
            if made == stop:
                break
        second = small_sieve(total=320)
        second.load_state_dict(first.state_dict())
        while second.passes < 2:
            for _ in second(BATCHES):
                pass
        assert second.progress == pytest.approx(1.0)
        assert second.ledger.examples.drawn == 320
    with pytest.raises(fs.StateError, match="may be longer, with more epochs, and not shorter"):
        small_sieve(total=160).load_state_dict(second.state_dict())


@pytest.mark.parametrize("given", [True, False])
def test_only_what_the_training_step_is_given_is_copied(given: bool) -> None:
    batch, codec, place = dict(BATCHES[0]), Codec(), Place()
    rows = codec.unpack(batch, 0)
    place.note(rows, given)
    assert place._drawn is not None
    (kept,) = place._drawn[1]
    assert (kept is batch["input_ids"]) == (not given)


@pytest.mark.parametrize("starts", [{}, {2: 0.0}])
def test_a_step_that_changes_its_batch_does_not_change_the_place(starts: dict[int, float]) -> None:
    """Words are masked in place, say: a resumed pass finds the batch as the loader had it."""
    method = fs.methods.registry.build("finesieve", starts=starts)
    first = small_sieve(total=640, method=method, pool=32)
    for i, batch in enumerate(first([{k: v.clone() for k, v in b.items()} for b in BATCHES])):
        batch["input_ids"][:] = 3
        if i == 2:
            break
    state = first.state_dict()
    method = fs.methods.registry.build("finesieve", starts=starts)
    second = small_sieve(total=640, method=method, pool=32)
    second.load_state_dict(state)
    assert list(second(BATCHES))
