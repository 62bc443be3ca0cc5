"""Settings of the Trainer that change how it loads, runs or weighs, with gates closed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from finesieve.integrations.transformers import attach as hf
from tests.integrations.transformers.kit import Data, collate, model, trainer
from tests.tiny import OPTIONS, closed, same, tokenizer, weights


def run(host: Trainer, **options: Any) -> fs.Sieve:
    """Train with gates closed; all losses finite, some examples not scored."""
    attached = hf.attach(host, closed(), **{**OPTIONS, **options})
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    examples = sieve.ledger.examples
    assert 0 < examples.scored < examples.drawn
    assert examples.yielded < 0.9 * examples.drawn
    assert all(math.isfinite(h["loss"]) for h in host.state.log_history if "loss" in h)
    return sieve


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, reentrant: bool) -> None:
    """Scoring takes no part in it (the model is in eval mode), so nothing warns."""
    hosts = [
        trainer(
            tmp_path,
            gradient_checkpointing=on,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant} if on else None,
        )
        for on in (False, True)
    ]
    sieves = []
    for host in hosts:
        torch.manual_seed(42)
        sieves.append(run(host))
    assert sieves[0].ledger.examples == sieves[1].ledger.examples
    for a, b in zip(weights(hosts[0].model), weights(hosts[1].model), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings(  # by which transformers 4 asks for it
    "ignore:.*torch.cpu.amp.autocast:FutureWarning"
)
def test_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are those of the trainer's own precision."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # transformers 4 leaves it there
    host = trainer(tmp_path, bf16=True)
    seen = set()
    host.model.classifier.register_forward_hook(
        lambda module, given, out: seen.add((module.training, out.dtype))
    )
    run(host)
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}


def test_torch_compile(tmp_path: Path) -> None:
    plain = trainer(tmp_path)
    first = run(plain)
    compiled = trainer(tmp_path, torch_compile=True, torch_compile_backend="eager")
    second = run(compiled)
    assert first.ledger.examples == second.ledger.examples
    for a, b in zip(weights(plain.model), weights(compiled.model), strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiled_trainer_compiles_once_a_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For fixed shapes, Accelerate's default: two lengths, each for the loader's batches and for
    the survivors', and a last, smaller batch. One shape may come with and without targets: the
    model is not given them where the loss is weighed."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_DYNAMIC", "false")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    host = trainer(tmp_path, torch_compile=True, torch_compile_backend="eager", num_train_epochs=1)
    # Found out by the model in its first forward otherwise, which compiles that once more.
    host.model.config.problem_type = "single_label_classification"
    shapes: set[tuple[int, ...]] = set()
    step = host.training_step

    def watched(net: nn.Module, batch: Any, *rest: Any) -> Tensor:
        weights = batch.get("sieve_weights", torch.ones(1))
        plain = bool((weights == 1).all())  # then the trainer itself takes the mean: another graph
        shapes.add((*batch["input_ids"].shape, plain))
        return step(net, batch, *rest)

    host.training_step = watched  # type: ignore[method-assign]
    run(host, lengths=[8, 16])
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    assert {width for _, width, _ in shapes} == {8, 16}
    assert 2 <= compiled <= len(shapes) + 1 <= 6


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")
def test_several_workers(tmp_path: Path) -> None:
    """The same run as with none: what is drawn and how it is decided does not depend on them."""
    alone = trainer(tmp_path)
    run(alone)
    several = trainer(tmp_path, dataloader_num_workers=2, dataloader_prefetch_factor=2)
    run(several)
    assert same(weights(alone.model), weights(several.model))


class Endless(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        data = Data(300)
        while True:
            yield from (data[i] for i in range(300))


def test_a_stream_without_length(tmp_path: Path) -> None:
    """By hand stages need a length, so the automatic ones; the trainer counts steps."""
    host = trainer(tmp_path, data=Endless(), max_steps=30)
    attached = hf.attach(host, fs.methods.registry.build("random", 0, share=0.5), **OPTIONS)
    host.train()
    assert host.state.global_step == 30
    assert attached.sieve is not None
    assert attached.sieve.ledger.examples.drawn > 800
    host = trainer(tmp_path, data=Endless(), max_steps=150)
    attached = hf.attach(
        host, fs.methods.registry.build("finesieve", 0, patience=256, cost_ratio=0.05), **OPTIONS
    )
    host.train()
    assert host.state.global_step == 150
    assert attached.sieve is not None
    assert attached.sieve.stage > 1


class Backwards(Trainer):
    """A sampler of one's own."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return list(range(len(self.train_dataset)))[::-1][:200]


class Asked(Data):
    """Remembers which examples were asked for."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.asked: list[int] = []

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        self.asked.append(i)
        return super().__getitem__(i)


def test_a_sampler_of_ones_own(tmp_path: Path) -> None:
    data = Asked(300)
    host = trainer(tmp_path, data=data)
    host.__class__ = Backwards
    sieve = run(host)
    assert data.asked == 2 * list(range(300))[::-1][:200]
    assert sieve.ledger.examples.drawn == 400
    assert sieve.progress == pytest.approx(1.0)


def weighted(net: nn.Module, batch: Any) -> Tensor:
    logits = net(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return F.cross_entropy(
        logits, batch["labels"], weight=torch.tensor([1.0, 5.0]), reduction="none"
    )


class Weighted(Trainer):
    def compute_loss(self, net: Any, inputs: Any, return_outputs: bool = False, **kw: Any) -> Any:
        return weighted(net, inputs).mean()


@pytest.mark.parametrize("own", [True, False])
def test_class_weights(tmp_path: Path, own: bool) -> None:
    """By a function, for a `compute_loss` of one's own as for `compute_loss_func`."""

    def mean(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return F.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 5.0]))

    if own:
        host = trainer(tmp_path)
        host.__class__ = Weighted
    else:
        host = trainer(tmp_path, compute_loss_func=mean)
    with pytest.raises(fs.ConfigError, match="losses=function"):
        hf.attach(host)
    run(host, losses=weighted)
    host.model.eval()
    batch = collate([host.train_dataset[i] for i in range(100)])
    with torch.no_grad():
        chosen = host.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits.argmax(1)
    assert chosen.float().mean() > batch["labels"].float().mean()


def test_accumulated_batches_weigh_alike_with_gates_closed_from_the_start(tmp_path: Path) -> None:
    """No batch goes through the host first, so it is asked once how it scales its loss."""
    norms = []
    for parts in (1, 4):
        host = trainer(
            tmp_path,
            model(),
            Data(256),
            gradient_accumulation_steps=parts,
            logging_steps=1,
            learning_rate=0.0,
            num_train_epochs=1,
        )
        attached = hf.attach(host, closed(starts={2: 0.0}, score=1.0), **OPTIONS)
        host.train()
        logs = [h for h in host.state.log_history if "loss" in h]
        norms.append(float(np.mean([h["loss"] for h in logs])))
        assert (attached._loss.scale.is_share is None) == (parts == 1)
    plain = trainer(
        tmp_path,
        model(),
        Data(256),
        gradient_accumulation_steps=4,
        logging_steps=1,
        learning_rate=0.0,
        num_train_epochs=1,
    )
    plain.train()
    logs = [h["loss"] for h in plain.state.log_history if "loss" in h]
    assert norms[1] / norms[0] == pytest.approx(np.mean(logs) / 0.69, rel=0.25)


def test_an_optimizer_step_may_hold_any_number_of_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer takes them all before any loss comes back: no error, and no warning."""
    monkeypatch.setattr("finesieve.sieve.feedback._UNDER_WAY", 64)
    host = trainer(
        tmp_path, model(), Data(1100), gradient_accumulation_steps=200, num_train_epochs=1
    )
    attached = hf.attach(host)
    host.train()
    assert attached.sieve.ledger.examples.yielded == 1100
    assert host.state.global_step == 1


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=64,
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


def translations(n: int = 240) -> list[dict[str, list[int]]]:
    dice = np.random.default_rng(0)
    return [
        {
            "input_ids": dice.integers(4, 60, int(dice.integers(3, 14))).tolist(),
            "labels": dice.integers(4, 60, int(dice.integers(2, 9))).tolist(),
        }
        for _ in range(n)
    ]


def test_targets_of_another_length_than_the_input(tmp_path: Path) -> None:
    """As `DataCollatorForSeq2Seq` makes them: labels and the decoder's input are as wide as the
    longest target, the rest as the longest input."""
    net, rows = t5(), translations()
    host = trainer(tmp_path, net, rows)
    host.data_collator = DataCollatorForSeq2Seq(tokenizer(), model=net)
    attached = hf.attach(host, closed(), **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    assert attached.sieve.ledger.examples.yielded < 420
    average = np.mean([len(r["labels"]) for r in rows])
    assert attached.head.per == pytest.approx(average, rel=0.05)


@pytest.mark.parametrize("method", ["full", "ours"])
def test_seq2seq_trainer(tmp_path: Path, method: str) -> None:
    """Evaluation by generating is its own; switched off it is the host to the bit."""

    def host() -> Seq2SeqTrainer:
        net, rows = t5(), translations()
        net.generation_config.max_new_tokens = 8

        def metrics(given: Any) -> dict[str, float]:
            assert given.predictions.ndim == 2  # tokens, not logits
            return {"tokens": float((given.predictions > 0).sum())}

        return Seq2SeqTrainer(
            net,
            Seq2SeqTrainingArguments(
                str(tmp_path),
                per_device_train_batch_size=8,
                num_train_epochs=2,
                learning_rate=1e-2,
                eval_strategy="epoch",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                predict_with_generate=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=rows,
            eval_dataset=rows[:20],
            data_collator=DataCollatorForSeq2Seq(tokenizer(), model=net),
            compute_metrics=metrics,
        )

    sieved = host()
    attached = hf.attach(sieved, "full" if method == "full" else closed(), **OPTIONS)
    sieved.train()
    judged = [h["eval_tokens"] for h in sieved.state.log_history if "eval_tokens" in h]
    assert len(judged) == 2
    assert min(judged) > 0
    assert attached.sieve is not None
    if method == "full":
        plain = host()
        plain.train()
        assert same(weights(plain.model), weights(sieved.model))
    else:
        assert attached.sieve.stage == 3
        assert attached.sieve.ledger.examples.yielded < 420


def test_model_init(tmp_path: Path) -> None:
    """The model is made anew when training begins: that one is scored and trained, each time."""
    made: list[nn.Module] = []
    scored: list[nn.Module] = []

    def new() -> nn.Module:
        made.append(model())
        made[-1].register_forward_pre_hook(
            lambda module, given: None if module.training else scored.append(module)
        )
        return made[-1]

    host = Trainer(
        model_init=new,
        args=TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=8,
            num_train_epochs=2,
            learning_rate=3e-3,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            logging_steps=5,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        ),
        data_collator=collate,
        train_dataset=Data(300),
    )
    attached = hf.attach(host, closed(), **OPTIONS)
    ends = []
    for _ in range(2):
        scored.clear()
        host.train()
        assert attached.sieve is not None
        assert attached.sieve.stage == 3
        assert host.model is made[-1]
        assert scored
        assert all(m is made[-1] for m in scored)
        ends.append(weights(host.model))
    assert len(made) >= 3
    assert same(*ends)
