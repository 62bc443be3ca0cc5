"""sentence-transformers' trainers, and SetFit on top of them, with a sieve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import finesieve as fs
from tests.tiny import (
    OPTIONS,
    bert,
    closed,
    documented,
    runs_with_one_line_more,
    same,
    sentence,
    tokenizer,
    weights,
)

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*pin_memory.*:UserWarning"
)

from datasets import Dataset  # noqa: E402
from sentence_transformers import (  # noqa: E402
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses, modules  # noqa: E402

from finesieve.gates.features import text_features, token_features  # noqa: E402
from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import COMMON  # noqa: E402

ARGS = {**COMMON, "save_strategy": "no", "dataloader_pin_memory": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny encoder and its tokenizer, saved."""
    path = tmp_path_factory.mktemp("encoder")
    bert(1).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


def pairs(n: int = 240) -> Dataset:
    """Mostly equal texts; the second is the longer one."""
    dice, rows = np.random.default_rng(1), []
    for _ in range(n):
        first = sentence(dice, 6)
        alike = dice.random() < 0.5
        rows.append(
            {
                "sentence1": first,
                "score": float(alike),
                "sentence2": f"{first} {first}" if alike else sentence(dice, 14),
            }
        )
    return Dataset.from_list(rows)


def encoder(
    folder: str, loss: Any = losses.CosineSimilarityLoss, output: str = "", **args: Any
) -> Any:
    torch.manual_seed(0)
    model = SentenceTransformer(
        modules=[modules.Transformer(folder), modules.Pooling(16)], device="cpu"
    )
    return SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(output or f"{folder}/out", **{**ARGS, **args}),
        train_dataset=pairs(),
        loss=loss(model),
    )


cosine = documented("cosine_losses")
FEATURES = token_features("sentence2_input_ids", "label", "sentence2_attention_mask")


def test_pairs_are_filtered_by_a_loss_for_each(folder: str) -> None:
    plain = encoder(folder, lr_scheduler_type="constant")
    plain.train()
    sieved = encoder(folder, lr_scheduler_type="constant")
    attached = hf.attach(sieved, closed(starts={}), losses=cosine, features=FEATURES)
    sieved.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 1
    for a, b in zip(weights(plain.model), weights(sieved.model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # the same loss
    sieved = encoder(folder)
    attached = hf.attach(sieved, closed(), losses=cosine, features=FEATURES, **OPTIONS)
    sieved.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    assert 0 < sieve.ledger.examples.scored < 480
    assert sieve.ledger.examples.yielded < 400
    logs = [h["loss"] for h in sieved.state.log_history if "loss" in h]
    assert all(math.isfinite(x) for x in logs)
    assert logs[-1] < logs[0]


def test_switched_off_it_is_the_host_to_the_bit(folder: str) -> None:
    plain = encoder(folder)
    plain.train()
    sieved = encoder(folder)
    hf.attach(sieved, "full")
    sieved.train()
    assert same(weights(plain.model), weights(sieved.model))


def test_resuming_ends_at_the_same_weights(folder: str, tmp_path: Path) -> None:
    more = {"save_strategy": "steps", "save_steps": 4, "output": str(tmp_path)}
    whole = encoder(folder, **more)
    hf.attach(whole, closed(), losses=cosine, features=FEATURES, **OPTIONS)
    whole.train()
    again = encoder(folder, **more)
    hf.attach(again, closed(), losses=cosine, features=FEATURES, **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert same(weights(whole.model), weights(again.model))


@pytest.mark.parametrize(
    "loss", [losses.CoSENTLoss, losses.MultipleNegativesRankingLoss, losses.CosineSimilarityLoss]
)
def test_without_a_function_it_is_refused_with_the_loss_named(folder: str, loss: Any) -> None:
    with pytest.raises(fs.ConfigError, match=rf"\({loss.__name__}\) has a compute_loss of its own"):
        hf.attach(encoder(folder, loss))


def test_cross_encoders_are_given_texts(folder: str) -> None:
    torch.manual_seed(0)
    host = CrossEncoderTrainer(
        CrossEncoder(folder, num_labels=1, device="cpu"),
        CrossEncoderTrainingArguments(f"{folder}/cross", **ARGS),
        train_dataset=pairs(),
    )
    with pytest.raises(fs.ConfigError, match=r"BinaryCrossEntropyLoss\) has a compute_loss"):
        hf.attach(host)
    attached = hf.attach(
        host,
        closed(),
        losses=documented("cross_losses", trainer=host),
        features=text_features("sentence2", "label"),
        **OPTIONS,
    )
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    assert 0 < sieve.ledger.examples.scored < 480
    assert sieve.ledger.examples.yielded < 400
    assert all(math.isfinite(h["loss"]) for h in host.state.log_history if "loss" in h)


def test_setfit_trains_its_body_filtered(folder: str) -> None:
    """Its inner trainer is one of sentence-transformers', with pairs made of the labelled texts."""
    setfit = pytest.importorskip("setfit")
    linear = pytest.importorskip("sklearn.linear_model")
    body = SentenceTransformer(
        modules=[modules.Transformer(folder), modules.Pooling(16)], device="cpu"
    )
    dice = np.random.default_rng(0)
    rows = [{"text": sentence(dice), "label": i % 2} for i in range(24)]
    host = setfit.Trainer(
        setfit.SetFitModel(body, linear.LogisticRegression()),
        setfit.TrainingArguments(
            output_dir=f"{folder}/setfit",
            batch_size=8,
            num_epochs=1,
            report_to="none",
            save_strategy="no",
            show_progress_bar=False,
        ),
        train_dataset=Dataset.from_list(rows),
    )

    def pair(model: Any, batch: Any) -> Tensor:
        named = {
            k.replace("sentence_1", "sentence1").replace("sentence_2", "sentence2"): v
            for k, v in batch.items()
        }
        return cosine(model, named)

    attached = hf.attach(
        host.st_trainer,
        closed(),
        losses=pair,
        **OPTIONS,
        features=token_features("sentence_1_input_ids", "label", "sentence_1_attention_mask"),
    )
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    assert sieve.ledger.examples.yielded < 0.8 * sieve.ledger.examples.drawn
    assert len(host.model.predict(["w1 w2", "w3"])) == 2


def test_the_example_has_one_line_more(tmp_path: Path) -> None:
    runs_with_one_line_more("sentence_encoder.py", tmp_path, rel=1e-4)


def test_the_setfit_example_has_one_line_more(tmp_path: Path) -> None:
    """Two pairs are made of a text. SetFit settles the size of batches after its inner trainer was
    made: by that trainer's own, 8, the rate would be decayed after a quarter of the stream."""
    for name in ("setfit", "sklearn"):
        pytest.importorskip(name)
    runs_with_one_line_more("setfit_intents.py", tmp_path, limit=48, rel=1e-4)
