"""Frozen layers under the Trainer: run once an example, and the same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from finesieve.errors import ConfigError
from finesieve.integrations.transformers import attach as hf
from finesieve.scoring.frozen import FrozenPrefix, freeze, layers_of
from tests.integrations.transformers.kit import SMALL, Data, collate, trainer
from tests.tiny import OPTIONS, closed, same, weights


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = BertForSequenceClassification(
        BertConfig(
            **{
                **SMALL,
                "num_hidden_layers": 3,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            }
        )
    )
    freeze(made, 2)
    return made


def run(folder: Path, shared: bool, resume: str | None = None, **args: Any) -> tuple[Trainer, int]:
    """The trainer, and how many examples went through the first layer."""
    host = trainer(folder, net(), **args)
    seen: list[int] = []
    layers_of(host.model)[0].attention.register_forward_hook(
        lambda module, given, out: seen.append(len(given[0]))
    )
    prefix = FrozenPrefix(host.model, 2) if shared else None
    attached = hf.attach(host, closed(), prefix=prefix, **OPTIONS)
    host.train(resume_from_checkpoint=resume)
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    return host, sum(seen)


@pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast:FutureWarning")  # accelerate 1.10's
@pytest.mark.parametrize("args", [{}, {"bf16": True}], ids=str)
def test_training_is_the_same_with_fewer_forwards(
    tmp_path: Path, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "bf16" in args:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # transformers 4 leaves it there
    apart, often = run(tmp_path, False, **args)
    shared, once = run(tmp_path, True, **args)
    assert once < 0.8 * often
    near = {"rtol": 0.02, "atol": 0.01} if "bf16" in args else {}  # survivors padded otherwise
    for a, b in zip(weights(apart.model), weights(shared.model), strict=True):
        torch.testing.assert_close(a, b, **near)


def test_a_resumed_run_takes_up_what_waited(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "a", True, save_strategy="steps", save_steps=15)
    again, _ = run(tmp_path / "b", True, resume=str(tmp_path / "a" / "checkpoint-15"))
    assert same(weights(whole.model), weights(again.model))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    host = trainer(tmp_path, net())
    with pytest.raises(ConfigError, match=r"does not have: make it of trainer\.model"):
        hf.attach(host, prefix=FrozenPrefix(net(1), 2))
    with pytest.raises(ConfigError, match="leave out losses=, or prefix="):
        hf.attach(host, prefix=FrozenPrefix(host.model, 2), losses=lambda net, batch: batch)
    new = Trainer(
        model_init=lambda: net(),
        args=TrainingArguments(str(tmp_path), report_to=[], use_cpu=True),
        data_collator=collate,
        train_dataset=Data(32),
    )
    with pytest.raises(ConfigError, match=r"with model_init, .* leave it out"):
        hf.attach(new, prefix=FrozenPrefix(new.model, 2))
    saving = trainer(tmp_path, net(), gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="gradient_checkpointing=True"):
        hf.attach(saving, prefix=FrozenPrefix(saving.model, 2))
    compiled = trainer(tmp_path, net(), torch_compile=True, torch_compile_backend="eager")
    with pytest.raises(ConfigError, match="torch_compile=True: layers of a compiled model"):
        hf.attach(compiled, prefix=FrozenPrefix(compiled.model, 2))
    hf.attach(host, prefix=FrozenPrefix(host.model, 2))
