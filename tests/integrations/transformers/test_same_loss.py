"""Another loss than the one that examples are scored by is never trained on in silence."""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import heads

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainingArguments,
)

from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    SMALL,
    Data,
    closed,
    collate,
    model,
    squared,
    trainer,
)
from tests.tiny import causal  # noqa: E402

WEIGHTED = torch.tensor([0.6, 3.0])
SHORT: dict[str, Any] = {
    "num_train_epochs": 1,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1000,
}
NO_HEAD_START: dict[str, Any] = {"head_start": 0, **OPTIONS}


def own_forward(change: Any) -> BertForSequenceClassification:
    """A classifier whose forward makes another loss of logits and labels."""

    class OwnForSequenceClassification(BertForSequenceClassification):
        def forward(self, *given: Any, labels: Any = None, **named: Any) -> Any:
            named.pop("num_items_in_batch", None)
            out = super().forward(*given, labels=labels, **named)
            if labels is not None:
                out.loss = change(out, labels)
            return out

    torch.manual_seed(0)  # with logits as large as those of a model of the usual width
    return OwnForSequenceClassification(BertConfig(**SMALL, initializer_range=0.1))


def refused(host: Trainer, said: str, **options: Any) -> None:
    """While gates are open, at the first batch; with the mend."""
    attached = hf.attach(host, closed(starts={2: 0.5}), **{**NO_HEAD_START, **options})
    with pytest.raises(fs.ConfigError, match=said) as error:
        host.train()
    assert "losses=function" in str(error.value)
    assert host.state.global_step == 0
    assert attached.sieve is not None
    assert attached.sieve.stage == 1


def focal(out: Any, labels: Tensor) -> Tensor:
    each = F.cross_entropy(out.logits, labels, reduction="none")
    return ((1.0 - (-each).exp()) ** 2 * each).mean()


LOSSES = {
    "normalised class weights": lambda out, y: F.cross_entropy(out.logits, y, weight=WEIGHTED),
    "smoothing": lambda out, y: F.cross_entropy(out.logits, y, label_smoothing=0.1),
    "focal": focal,
    "a sum": lambda out, y: F.cross_entropy(out.logits, y, reduction="sum"),
    "a term besides": lambda out, y: out.loss + 0.01 * out.logits.square().mean(),
    "a weight of the first half": lambda out, y: F.cross_entropy(out.logits[:4], y[:4]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_models_own_is_noticed_on_an_untrained_head(
    tmp_path: Path, name: str
) -> None:
    """Where all of them are about ln 2."""
    host = trainer(
        tmp_path, own_forward(LOSSES[name]), Data(64), **SHORT, per_device_train_batch_size=16
    )
    refused(host, r"loss is \d+\.\d+ times that of SingleLabel")


def test_it_is_noticed_on_a_later_batch(tmp_path: Path) -> None:
    """A term that is added from the third batch on, say."""
    seen = []

    def later(out: Any, labels: Tensor) -> Tensor:
        seen.append(1)
        return out.loss * (1.1 if len(seen) > 3 else 1.0)

    host = trainer(tmp_path, own_forward(later), Data(64), **SHORT)
    hf.attach(host, closed(starts={2: 0.9}), **NO_HEAD_START)
    with pytest.raises(fs.ConfigError, match=r"1\.10 times"):
        host.train()
    assert host.state.global_step == 3


def test_gates_that_are_closed_from_the_start_compare_first(tmp_path: Path) -> None:
    host = trainer(tmp_path, own_forward(LOSSES["smoothing"]), Data(64), **SHORT)
    hf.attach(host, closed(starts={2: 0.0}), **NO_HEAD_START)
    with pytest.raises(fs.ConfigError, match="times that of SingleLabel"):
        host.train()
    assert host.state.global_step == 0


def test_a_loss_function_put_on_the_model_is_noticed(tmp_path: Path) -> None:
    net = causal(dropout=0.0)

    def smoothing(logits: Tensor, labels: Tensor, vocab_size: int, **more: Any) -> Tensor:
        at, targets = logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].flatten()
        return F.cross_entropy(at, targets, label_smoothing=0.1)

    net.loss_function = smoothing
    data = Data(64, labels=lambda i, ids: ids)
    refused(trainer(tmp_path, net, data, **SHORT), "a loss_function of the model")


def test_token_weights_are_noticed(tmp_path: Path) -> None:
    class OwnForTokenClassification(BertForTokenClassification):
        def forward(self, *given: Any, labels: Any = None, **named: Any) -> Any:
            named.pop("num_items_in_batch", None)
            out = super().forward(*given, labels=labels, **named)
            if labels is not None:
                out.loss = F.cross_entropy(
                    out.logits.flatten(0, 1), labels.flatten(), weight=WEIGHTED
                )
            return out

    torch.manual_seed(0)
    net = OwnForTokenClassification(BertConfig(**SMALL, num_labels=2))
    data = Data(64, labels=lambda i, ids: (ids > 30).long())
    refused(trainer(tmp_path, net, data, **SHORT), "times that of Tokens")


def test_a_forward_put_on_the_model_is_noticed(tmp_path: Path) -> None:
    net = model()
    inner = net.forward

    def forward(self: Any, **named: Any) -> Any:
        out = inner(**named)
        if out.loss is not None:
            out.loss = out.loss + 0.05
        return out

    net.forward = MethodType(forward, net)
    refused(trainer(tmp_path, net, Data(64), **SHORT), "times that of SingleLabel")


def smoothed(self: Any, net: nn.Module, inputs: Any, *given: Any, **named: Any) -> Tensor:
    labels = inputs.pop("labels")
    return F.cross_entropy(net(**inputs).logits, labels, label_smoothing=0.3)


def test_a_compute_loss_on_the_object_is_refused(tmp_path: Path) -> None:
    host = trainer(tmp_path, data=Data(64), **SHORT)
    host.compute_loss = MethodType(smoothed, host)
    with pytest.raises(fs.ConfigError, match="this Trainer object has a compute_loss of its own"):
        hf.attach(host, closed())
    attached = hf.attach(host, closed(), losses=squared)
    attached.detach()
    assert host.compute_loss == MethodType(smoothed, host)  # what was there is there again


def test_a_compute_loss_put_there_after_attach_is_noticed(tmp_path: Path) -> None:
    host = trainer(tmp_path, data=Data(64), **SHORT)
    hf.attach(host, closed(), **NO_HEAD_START)

    def other(net: nn.Module, inputs: Any, *given: Any, **named: Any) -> Tensor:
        named = {k: v for k, v in inputs.items() if "sieve" not in k}
        return net(**named).loss  # type: ignore[no-any-return]

    host.compute_loss = other
    with pytest.raises(fs.ConfigError, match="without calling the sieve's compute_loss"):
        host.train()
    assert host.state.global_step == 1


class Twice(Trainer):
    """Asks for the loss of each batch twice, as adversarial training does."""

    def training_step(self, net: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        net.train()
        inputs = self._prepare_inputs(inputs)
        losses = [
            self.compute_loss(net, inputs, num_items_in_batch=num_items_in_batch) for _ in range(2)
        ]
        PAIRS.append([float(x.detach()) for x in losses])
        self.accelerator.backward(sum(losses))
        return losses[0].detach()


PAIRS: list[list[float]] = []


def test_a_second_loss_of_a_batch_weighs_its_examples_alike(tmp_path: Path) -> None:
    PAIRS.clear()
    host = Twice(
        model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=8,
            num_train_epochs=1,
            learning_rate=3e-3,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        ),
        data_collator=collate,
        train_dataset=Data(160),
    )
    attached = hf.attach(host, closed(starts={2: 0.3}), **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 2
    assert len(PAIRS) > 10
    assert all(a == pytest.approx(b, rel=1e-5) for a, b in PAIRS)


def test_a_training_step_without_compute_loss_is_noticed(tmp_path: Path) -> None:
    host = trainer(tmp_path, data=Data(64), **SHORT)

    def step(net: Any, inputs: Any, items: Any = None) -> Tensor:
        loss = net(**{k: v for k, v in inputs.items() if "sieve" not in k}).loss
        host.accelerator.backward(loss)
        return loss.detach()  # type: ignore[no-any-return]

    host.training_step = step
    hf.attach(host, closed(), **NO_HEAD_START)
    with pytest.raises(fs.ConfigError, match=r"let training_step call self\.compute_loss"):
        host.train()


def test_smoothing_that_the_given_head_does_not_have_is_refused(tmp_path: Path) -> None:
    for head in (heads.SingleLabel(), heads.SingleLabel(smoothing=0.2), heads.MultiLabel()):
        host = trainer(tmp_path, label_smoothing_factor=0.1)
        with pytest.raises(fs.ConfigError, match=r"label_smoothing_factor=0\.1, and head="):
            hf.attach(host, closed(), head=head)
    hf.attach(host, closed(), head=heads.SingleLabel(smoothing=0.1))


@pytest.mark.parametrize(
    ("parts", "more"), [(1, {"label_smoothing_factor": 0.1}), (3, {}), (3, {"bf16": True})]
)
def test_a_known_scaling_is_no_difference(tmp_path: Path, parts: int, more: dict[str, Any]) -> None:
    """Accumulation, also of a last step of fewer batches, smoothing, autocast."""
    host = trainer(
        tmp_path, data=Data(60), **{**SHORT, **more, "gradient_accumulation_steps": parts}
    )
    attached = hf.attach(host, closed(starts={}), **NO_HEAD_START)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.ledger.examples.yielded == 60


def test_the_callers_batch_keeps_what_rides_in_it(tmp_path: Path) -> None:
    host = trainer(tmp_path, data=Data(16), **SHORT)
    attached = hf.attach(host, closed(starts={}), id_key="row", **NO_HEAD_START)
    host.train_dataset = Data(16, row=lambda i, ids: i)
    batch = next(iter(host.get_train_dataloader()))
    before = dict(batch)
    assert {"sieve_ids", "row", "labels"} <= before.keys()
    host.current_gradient_accumulation_steps = 1  # of a step under way
    attached.compute_loss(host.model, batch)
    assert batch.keys() == before.keys()
    assert all(batch[k] is before[k] for k in before)
