"""Batches that cannot be put together are refused at the second one, while gates are open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import finesieve as fs
from tests.conftest import make_batches


def run(change: Callable[[int, Any], Any], method: Any = None, **options: Any) -> int:
    """Batches trained on before something is refused; with gates open all the time."""
    made = 0
    method = method or fs.methods.registry.build("random", share=0.5, starts={})
    batches = [change(i, dict(batch)) for i, batch in enumerate(make_batches(80))]
    sieve = fs.Sieve(method=method, options=fs.SieveOptions(pool=32, group=2, **options))
    try:
        for _ in sieve(batches):
            made += 1
    except fs.FinesieveError as error:
        error.add_note(str(made))
        raise
    return made


@pytest.fixture
def opening() -> fs.Method:
    """Filters, with gates that never close."""
    from finesieve import Fixed, Method, Open, Random

    return Method("mine", Random(0.5), Open(), Fixed({}))


def refused(said: str, change: Callable[[int, Any], Any], method: fs.Method, at: int = 1) -> None:
    with pytest.raises(fs.BatchError, match=said) as error:
        run(change, method)
    assert error.value.__notes__ == [str(at)]
    full = fs.methods.registry.build("full")  # puts nothing together
    assert run(change, full) == 10


def no_mask(i: int, batch: Any) -> Any:
    del batch["attention_mask"]
    return batch


def places(i: int, batch: Any) -> Any:
    mask = batch["attention_mask"]
    return {**batch, "attention_mask": mask[:, None, None, :] * mask[:, None, :, None]}


def seen_by(i: int, batch: Any) -> Any:
    mask = batch["attention_mask"]
    return {**batch, "attention_mask": mask[:, None, :] * mask[:, :, None]}


def tasks(i: int, batch: Any) -> Any:
    return {**batch, "scores" if i % 2 else "spans": torch.rand(8)}


def real_labels(i: int, batch: Any) -> Any:
    return {**batch, "labels": batch["labels"].float()} if i % 2 else batch


def rows_of_labels(i: int, batch: Any) -> Any:
    return {**batch, "labels": batch["labels"][:, None].repeat(1, 3)} if i % 2 else batch


def lists(i: int, batch: Any) -> Any:
    return {**batch, "labels": batch["labels"].tolist()} if i % 2 else batch


def images(i: int, batch: Any) -> Any:
    return {"pixels": torch.rand(8, 3, 4 + i, 4 + i), "labels": batch["labels"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_mask, "without an attention_mask nothing tells what to pad with: give pad_values"),
        (places, r"let the collate function give a mask \[n, length\]"),
        (seen_by, r"let the collate function give a mask \[n, length\]"),
        (tasks, "need a sieve each, or a collate function"),
        (real_labels, "'labels' is whole numbers on 1 axes in one batch and real numbers on 1"),
        (rows_of_labels, "'labels' is whole numbers on 1 axes in one batch and whole numbers on 2"),
        (lists, "'labels' is whole numbers on 1 axes in one batch and a list in another"),
        (images, "'pixels' came in shapes"),
    ],
)
def test_what_cannot_be_put_together_is_refused_at_the_second_batch(
    change: Callable[[int, Any], Any], said: str, opening: fs.Method
) -> None:
    refused(said, change, opening)


def test_a_form_that_comes_later_is_refused_when_it_comes(opening: fs.Method) -> None:
    refused("came from the same loader", lambda i, b: tasks(0 if i < 6 else 1, b), opening, at=6)


def test_lengths_that_no_example_fits_are_refused_when_one_comes(opening: fs.Method) -> None:
    with pytest.raises(fs.BatchError, match="but the longest of lengths="):
        run(lambda i, b: b, opening, lengths=[6])


def test_the_rehearsal_leaves_no_trace(opening: fs.Method) -> None:
    batches = make_batches(80)
    before = torch.get_rng_state()
    sieve = fs.Sieve(method=opening, options=fs.SieveOptions(pool=32, group=2))
    for given, batch in zip(batches, sieve(batches), strict=True):
        assert all(torch.equal(given[k], batch[k]) for k in given)
    assert sieve.ledger.examples.drawn == sieve.ledger.examples.yielded == 80
    assert torch.equal(before, torch.get_rng_state())


def test_a_dict_in_a_batch_is_refused_with_advice_that_can_be_followed(opening: fs.Method) -> None:
    def nested(i: int, batch: Any) -> Any:
        labels = batch.pop("labels")
        return {"query": batch, "labels": labels}

    def flat(i: int, batch: Any) -> Any:
        labels = batch.pop("labels")
        return {**{f"query_{k}": v for k, v in batch.items()}, "labels": labels}

    with pytest.raises(fs.BatchError, match="name them query_input_ids, query_attention_mask"):
        run(nested, opening)
    assert run(flat, opening) == 10


@pytest.mark.parametrize("value", ["text", True, 7, None])
def test_what_is_the_same_in_all_batches_rides_along(value: Any, opening: fs.Method) -> None:
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=32, group=2),
    )
    for batch in sieve([{**b, "how": value} for b in make_batches(80)]):
        assert batch["how"] is value
    with pytest.raises(fs.BatchError, match="it must be the same in all, or a list of n"):
        run(lambda i, b: {**b, "how": i}, opening)


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_a_column_as_wide_as_the_texts_is_left_alone(kind: str) -> None:
    """Texts padded to a fixed length, and as many features of each example."""
    dice = torch.Generator().manual_seed(0)
    batches, features = [], []
    for batch in make_batches(160, longest=12):
        wide = {k: torch.nn.functional.pad(batch[k], (0, 12 - batch[k].shape[1]))
                for k in ("input_ids", "attention_mask")}  # fmt: skip
        made = torch.rand(8, 12, generator=dice)
        features.append(made if kind == "numbers" else (made * 10).long())
        batches.append({**wide, "features": features[-1], "labels": batch["labels"]})
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=32, group=4),
    )
    everything, widths = torch.cat(features), set()
    for batch in sieve(batches):
        assert torch.equal(batch["features"], everything[batch["sieve_ids"]])
        widths.add(batch["input_ids"].shape[1])
    assert min(widths) < 12  # texts are cut


def test_positions_are_of_the_tokens_whatever_stands_where_there_is_no_text() -> None:
    """Counted by the mask, they go on where the text ends."""
    batches = [
        {
            **b,
            "position_ids": b["attention_mask"].cumsum(1) - 1,
            "token_type_ids": b["input_ids"] * 0,
        }
        for b in make_batches(160)
    ]
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=32, group=2),
    )
    for batch in sieve(batches):
        assert batch["position_ids"].shape == batch["input_ids"].shape
