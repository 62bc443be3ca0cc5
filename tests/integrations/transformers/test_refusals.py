"""What the Trainer's adapter cannot serve it refuses at once, and names the setting to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import finesieve as fs
from finesieve import heads

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import BertConfig, Trainer, TrainingArguments  # noqa: E402

from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    SMALL,
    Data,
    collate,
    model,
    squared,
    trainer,
)
from tests.tiny import tokenizer  # noqa: E402


class Own(Trainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"num_train_epochs": 1.5}, "num_train_epochs=1.5: a whole number, or max_steps"),
        ({"eval_strategy": "steps", "eval_steps": 0.2}, "eval_steps=0.2 is a share"),
        ({"save_strategy": "steps", "save_steps": 0.5}, "save_steps=0.5 is a share"),
        ({"logging_steps": 0.1}, "logging_steps=0.1 is a share"),
        ({"compute_loss_func": lambda *a, **k: None}, "losses=function"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    tmp_path: Path, args: dict[str, Any], said: str
) -> None:
    with pytest.raises(fs.ConfigError, match=said):
        hf.attach(trainer(tmp_path, **args))


def test_a_model_shared_by_ranks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = trainer(tmp_path)
    monkeypatch.setattr(type(host.accelerator), "torch_device_mesh", object())
    with pytest.raises(fs.ConfigError, match="a parallelism_config shards the model"):
        hf.attach(host)


# As settings they ask for GPUs (n_gpu is counted), a distributed launch (FSDP) or a package
# (DeepSpeed), so what the check reads is set.
@pytest.mark.parametrize(
    ("of", "name", "value", "said"),
    [
        ("", "is_fsdp_enabled", True, "FSDP and DeepSpeed .*: use plain data-parallel .*torchrun"),
        (
            "",
            "is_deepspeed_enabled",
            True,
            "FSDP and DeepSpeed .*: use plain data-parallel .*torchrun",
        ),
        ("args", "_n_gpu", 2, "several GPUs in one process .*torchrun.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_one_process_cannot_score_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, name: str, value: Any, said: str
) -> None:
    """With a function for the loss, too."""
    for losses in (None, squared):
        host = trainer(tmp_path)
        monkeypatch.setattr(getattr(host, of) if of else host, name, value)
        with pytest.raises(fs.ConfigError, match=said):
            hf.attach(host, losses=losses)
        hf.attach(host, "full")  # filters nothing, so it is the trainer's own affair


def spans_padded(side: str, folder: Path) -> Trainer:
    words = tokenizer()
    words.padding_side = side
    return Trainer(
        transformers.BertForQuestionAnswering(BertConfig(**SMALL)),
        TrainingArguments(str(folder), report_to=[], use_cpu=True),
        data_collator=collate,
        train_dataset=Data(32),
        processing_class=words,
    )


def test_spans_are_counted_from_the_left(tmp_path: Path) -> None:
    """So that the padding has to be on the right, unless a function takes care of it."""
    with pytest.raises(fs.ConfigError, match=r"set tokenizer\.padding_side='right'"):
        hf.attach(spans_padded("left", tmp_path))
    attached = hf.attach(spans_padded("right", tmp_path))
    assert isinstance(attached.head, heads.Spans)
    hf.attach(spans_padded("left", tmp_path), losses=squared)
    classes = trainer(tmp_path)
    classes.processing_class = spans_padded("left", tmp_path).processing_class
    hf.attach(classes)  # a label has no place


def test_a_collator_that_joins_examples_is_refused(tmp_path: Path) -> None:
    """With a function for the loss, too: a row of several examples is dropped as a whole."""
    for losses in (None, squared):
        host = trainer(tmp_path)
        host.data_collator = transformers.DataCollatorWithFlattening()
        with pytest.raises(fs.ConfigError, match="use a collator that pads"):
            hf.attach(host, losses=losses)


@pytest.mark.parametrize(
    "args",
    [
        {"num_train_epochs": 1.5},
        {"eval_strategy": "steps", "eval_steps": 0.2},
        {"save_strategy": "steps", "save_steps": 0.5},
        {"logging_steps": 0.1},
    ],
)
def test_shares_are_served_where_the_number_of_steps_is_known(
    tmp_path: Path, args: dict[str, Any]
) -> None:
    hf.attach(trainer(tmp_path, max_steps=20, **args))


@pytest.mark.parametrize(
    ("name", "value"),
    [("compute_loss_func", lambda *given, **named: None), ("use_liger_kernel", True)],
)
def test_a_function_replaces_losses_that_cannot_be_taken_apart(
    tmp_path: Path, name: str, value: Any
) -> None:
    host = trainer(tmp_path)
    setattr(host if hasattr(host, name) else host.args, name, value)
    with pytest.raises(fs.ConfigError, match=r"give attach\(\.\.\., losses=function\)"):
        hf.attach(host)
    hf.attach(host, losses=squared)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(fs.ConfigError, match=r"expected a transformers\.Trainer"):
        hf.attach(model())
    host = trainer(tmp_path)
    hf.attach(host)
    with pytest.raises(fs.ConfigError, match="attached to this trainer already"):
        hf.attach(host)
    own = Own(model(), TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    with pytest.raises(fs.ConfigError, match="Own has a compute_loss of its own"):
        hf.attach(own)
    liger = trainer(tmp_path)
    liger.args.use_liger_kernel = True  # as set at first it asks for the package
    with pytest.raises(fs.ConfigError, match="use_liger_kernel=True computes the loss without"):
        hf.attach(liger)
    jit = trainer(tmp_path)
    jit.args.enable_jit_checkpoint = True  # transformers 5
    with pytest.raises(fs.ConfigError, match="enable_jit_checkpoint=True saves without telling"):
        hf.attach(jit)
    mixed = trainer(tmp_path)
    mixed.model.config.output_router_logits = True
    mixed.model.config.router_aux_loss_coef = 0.01
    with pytest.raises(fs.ConfigError, match=r"set router_aux_loss_coef=0\.0"):
        hf.attach(mixed)
    with pytest.raises(fs.SettingError, match=r"no setting 'batchsize'.*mean 'batch_size'"):
        hf.attach(trainer(tmp_path), batchsize=16)
    with pytest.raises(fs.ConfigError, match="clock: the trainer's own is used"):
        hf.attach(trainer(tmp_path), clock=lambda: 0.0)
    smoothed = trainer(tmp_path, model(1), label_smoothing_factor=0.1)
    with pytest.raises(fs.ConfigError, match=r"label_smoothing_factor=0\.1"):
        hf.attach(smoothed)
