"""The loss that the Trainer trains on: its own, a given head, and one that nobody told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
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
    trainer,
    weights,
)


@pytest.mark.parametrize(("parts", "said"), [(1, r"3\.00"), (4, r"3\.00")])
def test_a_loss_of_the_models_own_is_noticed(tmp_path: Path, parts: int, said: str) -> None:
    """Class weights in the model's forward, say: gates would go by another loss."""

    class WeighingForSequenceClassification(BertForSequenceClassification):
        def forward(self, *given: Any, **named: Any) -> Any:
            named.pop("num_items_in_batch", None)  # transformers 4 gives it for the `**named` here
            out = super().forward(*given, **named)
            if out.loss is not None:
                out.loss = 3.0 * out.loss
            return out

    torch.manual_seed(0)
    net = WeighingForSequenceClassification(BertConfig(**SMALL))
    host = trainer(tmp_path, net, gradient_accumulation_steps=parts)
    hf.attach(host, closed(), **OPTIONS)
    with pytest.raises(fs.ConfigError, match=f"loss is {said} times that of SingleLabel"):
        host.train()


class Weighing(Trainer):
    """Class weights as people write them."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        each = F.cross_entropy(outputs.logits, labels, reduction="none")
        loss = (each * CLASS_WEIGHTS[labels]).mean()
        return (loss, outputs) if return_outputs else loss


CLASS_WEIGHTS = torch.tensor([1.0, 3.0])


def test_a_head_that_is_given_is_trained_on_throughout(tmp_path: Path) -> None:
    """Class weights in the head: with gates open the loss is what a trainer of one's own has, and
    its function for the loss of a batch is replaced."""
    args: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "lr_scheduler_type": "constant",
    }
    own = Weighing(
        model(),
        TrainingArguments(str(tmp_path), **args),
        data_collator=collate,
        train_dataset=Data(304),
    )
    own.train()
    weighing = fs.heads.SingleLabel(class_weights=CLASS_WEIGHTS)
    for start, more in (
        (closed(starts={}), {}),
        (closed(starts={}), {"compute_loss_func": lambda *given, **named: None}),
    ):
        host = Trainer(
            model(),
            TrainingArguments(str(tmp_path), **args),
            data_collator=collate,
            train_dataset=Data(304),
            **more,
        )
        hf.attach(host, start, head=weighing)
        host.train()
        for a, b in zip(weights(own), weights(host), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    host = Trainer(
        model(),
        TrainingArguments(str(tmp_path), **args),
        data_collator=collate,
        train_dataset=Data(304),
    )
    attached = hf.attach(host, closed(), head=weighing, **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_a_random_subset_trains_on_the_head_that_is_given(tmp_path: Path, share: float) -> None:
    """However its weights, which are all alike, come out in floating point."""
    ends = []
    for head in (fs.heads.SingleLabel(class_weights=torch.tensor([1.0, 30.0])), None):
        host = trainer(tmp_path, lr_scheduler_type="constant", gradient_accumulation_steps=1)
        method = methods.registry.build("random", 0, share=share)
        attached = hf.attach(host, method, head=head, **OPTIONS)
        host.train()
        assert attached.sieve is not None
        # From a few steps on, all are said to be of the class of the heavy weight.
        batch = collate(Data(300).rows)
        del batch["labels"]
        with torch.no_grad():
            ends.append(float((host.model(**batch).logits.argmax(-1) == 1).float().mean()))
    assert ends[0] > ends[1] + 0.2
