"""Rates, scales and totals of a Trainer, and runs that are resumed on other data or for longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import finesieve as fs
from finesieve import heads

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Trainer, get_linear_schedule_with_warmup  # noqa: E402

from finesieve.integrations.transformers import attach as hf  # noqa: E402
from finesieve.integrations.transformers.tasks import TokensPerExample  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    Data,
    closed,
    model,
    trainer,
)

SHORT: dict[str, Any] = {"gradient_accumulation_steps": 1, "warmup_steps": 0}


def rate(host: Trainer) -> float:
    return float(host.optimizer.param_groups[0]["lr"])


class WithoutReturn(Trainer):
    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> None:
        self.lr_scheduler = get_linear_schedule_with_warmup(
            optimizer or self.optimizer, 0, num_training_steps
        )


class Both(Trainer):
    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.create_optimizer()
        self.lr_scheduler = get_linear_schedule_with_warmup(self.optimizer, 0, num_training_steps)


@pytest.mark.parametrize("kind", [WithoutReturn, Both])
def test_a_schedule_of_the_subclass_follows_the_data(tmp_path: Path, kind: type[Trainer]) -> None:
    """Whatever it returns, and where it is made."""
    host = trainer(tmp_path, data=Data(96), num_train_epochs=1, **SHORT)
    host.__class__ = kind
    hf.attach(host, closed(starts={2: 0.1}), **OPTIONS)
    host.train()
    assert host.state.global_step < 12
    assert rate(host) == 0.0


def test_a_schedule_by_evaluations_is_left_alone(tmp_path: Path) -> None:
    host = trainer(
        tmp_path,
        data=Data(64),
        num_train_epochs=1,
        lr_scheduler_type="reduce_lr_on_plateau",
        eval_strategy="epoch",
        metric_for_best_model="loss",
        **SHORT,
    )
    hf.attach(host, closed(), **OPTIONS)
    host.train()
    assert rate(host) == 3e-3


class Stream(torch.utils.data.IterableDataset[Any]):
    """Examples in a row, of a number that it tells."""

    def __init__(self, n: int, told: int | None = None) -> None:
        self.rows, self.told = Data(n).rows, n if told is None else told

    def __iter__(self) -> Any:
        yield from self.rows

    def __len__(self) -> int:
        return self.told


def test_a_stream_that_tells_its_length_ends_at_rate_0(tmp_path: Path) -> None:
    """Also where the last batch is smaller than the others."""
    host = trainer(tmp_path, data=Stream(101), **SHORT)
    attached = hf.attach(host, closed(starts={2: 0.2}), **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.ledger.examples.drawn == 202
    assert attached.sieve.progress == pytest.approx(1.0)
    assert rate(host) == 0.0


def test_a_stream_longer_than_it_tells_is_noticed(tmp_path: Path) -> None:
    host = trainer(tmp_path, data=Stream(120, told=40), num_train_epochs=1, **SHORT)
    hf.attach(host, closed(starts={2: 0.2}), **OPTIONS)
    with pytest.warns(fs.errors.FinesieveWarning, match="examples were drawn, and total=40"):
        host.train()


def test_a_run_that_is_over_goes_on_with_more_epochs(tmp_path: Path) -> None:
    """As the trainer's own; with fewer it is refused."""
    for epochs in (1, 2):
        host = trainer(
            tmp_path, data=Data(80), num_train_epochs=epochs, save_strategy="epoch", **SHORT
        )
        attached = hf.attach(host, closed(starts={2: 0.2}), **OPTIONS)
        host.train(resume_from_checkpoint=epochs == 2)
        assert attached.sieve is not None
        assert attached.sieve.ledger.examples.drawn == 80 * epochs
        assert attached.sieve.passes == epochs
        assert rate(host) == 0.0
    host = trainer(tmp_path, data=Data(80), num_train_epochs=1, save_strategy="epoch", **SHORT)
    hf.attach(host, closed(starts={2: 0.2}), **OPTIONS)
    with pytest.raises(fs.StateError, match="with more epochs, and not shorter"):
        host.train(resume_from_checkpoint=True)


def changed(n: int) -> Data:
    """As many examples as before, one of them gone and another one there."""
    data = Data(n + 1)
    del data.rows[0]
    return data


def test_a_run_on_other_data_is_not_taken_up(tmp_path: Path) -> None:
    """Another order, edited data, batches of another size."""
    more = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 4, **SHORT}
    more["data_seed"] = 3

    def resumed(data: Data, args: dict[str, Any]) -> None:
        host = trainer(tmp_path, model(seed=9), data, **{**more, **args})
        hf.attach(host, closed(starts={2: 0.4}), **OPTIONS)
        host.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4") if args else None)

    resumed(Data(64), {})
    for data, args in (
        (Data(64), {"data_seed": 7}),
        (changed(64), {"data_seed": 3}),
        (Data(64), {"per_device_train_batch_size": 4}),
    ):
        with pytest.raises(fs.StateError, match=r"has other examples now|saved state has"):
            resumed(data, args)


def texts(n: int, length: int) -> dict[str, Tensor]:
    labels = torch.full((n, 70), -100)
    labels[:, :length] = 1
    return {"labels": labels, "attention_mask": (labels == 1).long()}


def test_the_scale_of_token_losses_follows_texts_that_grow() -> None:
    """Of a curriculum; where they stay alike it does not move."""
    head = heads.Tokens()
    measure = TokensPerExample(head, least=64)
    for _ in range(8):
        measure.see(texts(16, 10), is_open=True)
    assert head.per == 10.0
    for _ in range(64):
        measure.see(texts(16, 11), is_open=False)
    assert head.per == 10.0
    for _ in range(16):
        measure.see(texts(16, 60), is_open=False)
    assert head.per == 60.0
    again = TokensPerExample(heads.Tokens(), least=64)
    again.load_state_dict(measure.state_dict())
    assert again.head.per == 60.0
    assert again.state_dict() == measure.state_dict()


@pytest.mark.parametrize("padding", ["labelled", "a completion"])
def test_targets_outside_of_the_mask_are_refused_at_the_first_batch(padding: str) -> None:
    head = heads.Tokens(shift=True)
    batch = texts(4, 10)
    if padding == "labelled":  # labels = input_ids, as tutorials have it
        batch["labels"] = batch["labels"].masked_fill(batch["attention_mask"] == 0, 0)
    else:
        batch["labels"][:, 10:14] = 5
    with pytest.raises(fs.BatchError, match="targets of a batch stand where attention_mask is 0"):
        TokensPerExample(head, aligned=True).see(batch, is_open=True)
    TokensPerExample(head).see(batch, is_open=True)  # another text's, of a decoder
    del batch["attention_mask"]
    TokensPerExample(head, aligned=True).see(batch, is_open=True)
