"""`--lora`: adapters instead of all weights, in the command line."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finesieve import ConfigError
from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.training.models import load_model, load_tokenizer, resolve
from finesieve.cli.training.train import Run
from tests.conftest import BY_HAND, arguments

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)  # PEFT asks transformers by an old name


@pytest.fixture(scope="module")
def adapted(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all three stages; its first layer is frozen, adapters and all."""
    output = tmp_path_factory.mktemp("lora") / "out"
    assert (
        main(arguments(files, output, *BY_HAND, "--lora", "4", "--freeze", "1", "--lr", "5e-3"))
        == 0
    )
    return output


def test_adapters_and_head_alone_are_trained(adapted: Path, files: Path) -> None:
    s = json.loads((adapted / "summary.json").read_text())
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    assert s["eval"]["accuracy"] > s["eval"]["majority"]
    # No gradient by the weights: twice a forward, and a little for the adapters.
    train, score = (
        s["flops"][k] / s["tokens"][v] for k, v in (("train", "trained"), ("score", "scored"))
    )
    assert 2.0 < train / score < 2.05
    before, after = (
        load_model(name, ["sympy", "torch"], 0).state_dict()
        for name in (str(files / "model"), str(adapted / "model"))
    )
    assert before.keys() == after.keys()  # merged: a model like any other
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    layers = {
        f"bert.encoder.layer.{i}.attention.self.{name}.weight"
        for i in range(1, 6)
        for name in ("query", "value")
    }
    assert moved == {*layers, "classifier.weight", "classifier.bias"}


def test_both_that_is_saved_gives_what_was_measured(adapted: Path, files: Path) -> None:
    tokenizer = load_tokenizer(str(adapted / "model"))
    table = load(str(files / "eval.jsonl"))
    batch = tokenizer(
        table.texts, truncation=True, max_length=16, padding=True, return_tensors="pt"
    )
    target = torch.tensor([["sympy", "torch"].index(y) for y in table.labels])
    merged = load_model(str(adapted / "model"), ["sympy", "torch"], 7)
    # The head of another seed: it must come out of the folder.
    apart = peft.PeftModel.from_pretrained(
        load_model(str(files / "model"), ["sympy", "torch"], 7), str(adapted / "adapter")
    )
    s = json.loads((adapted / "summary.json").read_text())
    for model in (merged, apart):
        with torch.inference_mode():
            logits = model.eval()(**batch).logits
        assert float(torch.nn.functional.cross_entropy(logits, target)) == pytest.approx(
            s["eval"]["loss"], rel=1e-3
        )


def test_interrupted_and_resumed_is_the_same_to_the_bit(
    adapted: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = Run._step, 0

    def stopped(run: Run, batch: Any) -> None:
        nonlocal steps
        steps += 1
        step(run, batch)
        if steps == 12:  # within stage 2
            run._on_signal(signal.SIGTERM, None)

    command = arguments(
        files, tmp_path / "cut", *BY_HAND, "--lora", "4", "--freeze", "1", "--lr", "5e-3"
    )
    monkeypatch.setattr(Run, "_step", stopped)
    assert main(command) == 128 + signal.SIGTERM
    assert main([*command, "--resume"]) == 0
    assert steps > 12
    whole, cut = (
        {k: v for k, v in peft.load_peft_weights(str(at / "adapter"), "cpu").items()}
        for at in (adapted, tmp_path / "cut")
    )
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def saved(folder: Path, model: Any) -> Path:
    """The model without a head, and MiniLM's tokenizer."""
    model.save_pretrained(folder)
    load_tokenizer(resolve("minilm")).save_pretrained(folder)
    return folder


def test_what_pretraining_left_without_weights_is_trained_too(tmp_path: Path) -> None:
    """A pooler that the checkpoint lacks, and a head of two layers, of which PEFT by itself trains
    one; but no layer of the same name in the body."""
    import transformers as tf

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 40000,
    }
    bert = saved(tmp_path / "bert", tf.BertModel(tf.BertConfig(**small), add_pooling_layer=False))
    distil = saved(
        tmp_path / "distil",
        tf.DistilBertModel(
            tf.DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=40000)
        ),
    )
    for folder, wanted in (
        (bert, {"bert.pooler.dense", "classifier"}),
        (distil, {"pre_classifier", "classifier"}),
    ):
        net = load_model(str(folder), [0, 1, 2], 0, lora=2)
        learn = {n for n, p in net.named_parameters() if p.requires_grad}
        found = {
            n.removeprefix("base_model.model.").partition(".modules_to_save")[0]
            for n in learn
            if "lora_" not in n
        }
        assert found == wanted
        assert any("lora_" in n for n in learn)
    # A head that the checkpoint has for another number of labels is a new one.
    tf.BertForSequenceClassification(tf.BertConfig(**small, num_labels=5)).save_pretrained(bert)
    net = load_model(str(bert), [0, 1, 2], 0, lora=2)
    assert net.base_model.model.classifier.modules_to_save.default.weight.shape == (3, 16)


def test_a_model_kind_that_peft_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers as tf
    from peft.utils import constants

    monkeypatch.delitem(constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, "bert")
    folder = saved(
        tmp_path / "bert",
        tf.BertModel(
            tf.BertConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                vocab_size=40000,
            )
        ),
    )
    learn = {
        n
        for n, p in load_model(str(folder), [0, 1], 0, lora=2).named_parameters()
        if p.requires_grad
    }
    for name in ("query", "key", "value", "attention.output.dense", "intermediate.dense"):
        assert any(f"{name}.lora_A" in n for n in learn), name


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"finesieve\[peft\]"):
        load_model("minilm", [0, 1], 0, lora=2)
