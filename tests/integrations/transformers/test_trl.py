"""TRL's SFTTrainer with a sieve attached to it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve import heads
from tests.tiny import (
    OPTIONS,
    causal,
    closed,
    runs_with_one_line_more,
    same,
    sentence,
    tokenizer,
    weights,
)

pytest.importorskip("trl")
pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*pin_memory.*:UserWarning"
)

from datasets import Dataset  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import (  # noqa: E402
    SFTConfig,
    SFTTrainer,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling  # noqa: E402

from finesieve.integrations.transformers import attach as hf  # noqa: E402


def texts(n: int = 240, prompts: bool = False) -> Dataset:
    dice = np.random.default_rng(3)
    if prompts:
        return Dataset.from_list(
            [{"prompt": sentence(dice), "completion": " " + sentence(dice)} for _ in range(n)]
        )
    return Dataset.from_list([{"text": sentence(dice)} for _ in range(n)])


def sft(
    folder: Path, data: Any = None, model: Any = None, kind: Any = SFTTrainer, **args: Any
) -> SFTTrainer:
    options: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 3e-3,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 5,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        **args,
    }
    kwargs = {
        k: options.pop(k) for k in ("peft_config", "callbacks", "eval_dataset") if k in options
    }
    return kind(
        causal() if model is None else model,
        SFTConfig(str(folder), **options),
        train_dataset=texts() if data is None else data,
        processing_class=tokenizer(),
        **kwargs,
    )


def test_with_open_gates_it_is_the_host_to_the_bit(tmp_path: Path) -> None:
    """Also its own metrics: what the model puts out is overheard, not asked for again."""
    plain = sft(tmp_path, lr_scheduler_type="constant")
    plain.train()
    sieved = sft(tmp_path, lr_scheduler_type="constant")
    attached = hf.attach(sieved, closed(starts={}))
    sieved.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 1
    assert same(weights(plain.model), weights(sieved.model))
    keys = ("loss", "entropy", "mean_token_accuracy", "num_tokens")
    logs = [
        [[h[k] for k in keys] for h in t.state.log_history if "loss" in h] for t in (plain, sieved)
    ]
    assert logs[0] == logs[1]


def test_steps_that_are_told_and_evaluation_that_is_not_filtered(tmp_path: Path) -> None:
    held_out = texts(40, prompts=True)
    host = sft(
        tmp_path,
        texts(prompts=True),
        eval_strategy="steps",
        eval_steps=10,
        max_steps=30,
        num_train_epochs=1,
        eval_dataset=held_out,
    )
    attached = hf.attach(host, closed(), total=480, **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    assert host.state.global_step == 30
    logs = [h for h in host.state.log_history if "loss" in h]
    assert logs[-1]["sieve_stage"] == 3.0
    assert 0 < logs[-1]["sieve_scored"] < 1
    counted = sum(
        (host.data_collator([r])["labels"][:, 1:] != -100).sum() for r in host.eval_dataset
    )
    told = host.evaluate()
    nats = 0.0
    host.model.eval()
    with torch.no_grad():
        for row in host.eval_dataset:
            batch = host.data_collator([row])
            wanted = batch["labels"][:, 1:]
            logits = host.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits[:, :-1]
            nats += float(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), wanted.flatten(), reduction="sum", ignore_index=-100
                )
            )
    # The host's mean is over its batches' means: near the mean over all tokens.
    assert told["eval_loss"] == pytest.approx(nats / float(counted), rel=0.05)


def test_what_is_generated_while_training_is_refused(tmp_path: Path) -> None:
    """GRPO and its like draw prompts, whose loss nobody knows."""
    from trl import GRPOTrainer

    host = sft(tmp_path)
    assert hasattr(GRPOTrainer, "_generate_and_score_completions")
    host._generate_and_score_completions = None  # making one takes a reward and a generation set-up
    for losses in (None, lambda model, batch: batch):
        with pytest.raises(fs.ConfigError, match="generates what it trains on"):
            hf.attach(host, losses=losses)
    hf.attach(host, "full")


@pytest.mark.parametrize(
    "args", [{}, {"gradient_checkpointing": True}, {"label_smoothing_factor": 0.1}, {"bf16": True}]
)
def test_it_filters(tmp_path: Path, args: dict[str, Any]) -> None:
    host = sft(tmp_path, texts(prompts=True), **args)
    attached = hf.attach(host, closed(), **OPTIONS)
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    examples = sieve.ledger.examples
    assert examples.drawn == 480 == examples.yielded + examples.dropped
    assert 0 < examples.scored < 480
    assert examples.yielded < 380
    logs = [h for h in host.state.log_history if "loss" in h]
    assert all(math.isfinite(h["loss"]) for h in logs)
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert 0.5 < logs[-1]["loss"] / logs[1]["loss"] < 1.1  # scaled alike with closed gates
    assert "mean_token_accuracy" in logs[-1]
    if "label_smoothing_factor" not in args:  # transformers 4.56 does not share out a smoothed loss
        assert attached._loss.scale.is_share is True


def test_the_fused_head_agrees_with_the_logits(tmp_path: Path) -> None:
    host = sft(tmp_path, texts(prompts=True))
    attached = hf.attach(host)
    host.model.eval()
    batch = host.data_collator([host.train_dataset[i] for i in range(8)])
    assert bool((batch["labels"] == -100).any())
    attached.head.per = 7.0
    scorer = attached._scorer()
    scores = scorer(dict(batch))
    naive = heads.Tokens(shift=True, per=7.0)
    logits = host.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(torch.from_numpy(scores.loss), naive.losses(logits, batch))
    torch.testing.assert_close(torch.from_numpy(scores.size), naive.sizes(logits, batch))
    whole = host.model(**batch).loss * (batch["labels"][:, 1:] != -100).sum() / 7.0
    assert scores.loss.sum() == pytest.approx(whole.item(), rel=1e-5)


class Gradients(TrainerCallback):
    """The gradient of every optimizer step."""

    def __init__(self) -> None:
        self.sum: Any = 0.0
        self.steps = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        flat = torch.cat([p.grad.flatten() for p in kw["model"].parameters()])
        self.sum, self.steps = self.sum + flat.double(), self.steps + 1


@pytest.mark.parametrize(("parts", "head"), [(1, None), (3, None), (1, heads.Tokens(shift=True))])
def test_the_expected_gradient_is_the_hosts(tmp_path: Path, parts: int, head: Any) -> None:
    """A model that does not move, gates closed from the start, many passes: the mean gradient is
    that of the host's objective, the sum of all token losses over the number of tokens. With an
    example's own mean for its loss it is not."""
    dice = np.random.default_rng(1)
    rows = [
        {
            "text": " ".join(
                ["w3 w4"] * 14
                if i % 3 == 0
                else [f"w{w}" for w in dice.integers(5, 60, int(dice.integers(3, 6)))]
            )
        }
        for i in range(384)
    ]
    watch = Gradients()
    host = sft(
        tmp_path,
        Dataset.from_list(rows),
        causal(dropout=0.0),
        callbacks=[watch],
        learning_rate=0.0,
        num_train_epochs=8,
        max_grad_norm=0.0,
        optim="sgd",
        gradient_accumulation_steps=parts,
        logging_steps=10_000,
    )
    attached = hf.attach(
        host, closed(train=0.4, score=1.0, starts={2: 0.0}), head=head, pool=64, group=8
    )
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.ledger.examples.yielded < 0.6 * 384 * 8
    mean = watch.sum / watch.steps
    batch = host.data_collator([host.train_dataset[i] for i in range(384)])
    host.model.zero_grad()
    items = host.get_batch_samples(iter([batch]), 1, host.args.device)[1]  # as the host counts them
    host.model(**batch, num_items_in_batch=items).loss.backward()
    whole = torch.cat([p.grad.flatten() for p in host.model.parameters()]).double()
    error = float((mean - whole).norm() / whole.norm())
    assert (error < 0.12) if head is None else (error > 0.5)


@pytest.mark.parametrize("at", ["4", "10"])
def test_resuming_ends_at_the_same_weights(tmp_path: Path, at: str) -> None:
    more = {"save_strategy": "steps", "save_steps": 2}
    whole = sft(tmp_path, **more)
    first = hf.attach(whole, closed(), **OPTIONS)
    whole.train()
    again = sft(tmp_path, model=causal(9), **more)
    attached = hf.attach(again, closed(), **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert same(weights(whole.model), weights(again.model))
    assert attached.head.per == first.head.per


class Own(SFTTrainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"packing": True, "max_length": 32}, "packing and padding_free join"),
        ({"padding_free": True, "max_length": None}, "packing and padding_free join"),
        ({"loss_type": "dft"}, "loss_type='dft' is another loss"),
        ({"kind": Own}, "Own has a compute_loss of its own"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    tmp_path: Path, args: dict[str, Any], said: str
) -> None:
    with pytest.raises(fs.ConfigError, match=said):
        hf.attach(sft(tmp_path, **args))


def test_refusals_that_losses_of_ones_own_do_not_lift(tmp_path: Path) -> None:
    """What is in a batch, whatever its loss."""

    def refused(host: SFTTrainer, said: str) -> None:
        with pytest.raises(fs.ConfigError, match=said):
            hf.attach(host, losses=lambda model, batch: batch)

    experts = sft(tmp_path)
    experts.aux_loss_enabled = True  # as TRL sets it for models that put out router logits
    refused(experts, r"load-balancing loss .*: set router_aux_loss_coef=0\.0")
    images = sft(tmp_path)
    images._is_vision_dataset = True  # as set by TRL, it wants a model that sees, and a processor
    refused(images, "images may have several rows of a batch: text only")
    flat = sft(tmp_path)
    flat.data_collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    refused(flat, "set both to False, and use a collator that pads")


def test_another_loss_than_the_sieves_is_refused_and_can_be_given(tmp_path: Path) -> None:
    """TRL's loss goes through its fused head, so that a head of ours does not stand for a
    `compute_loss_func` as it does under the Trainer."""
    host = sft(tmp_path, loss_type="dft")
    with pytest.raises(fs.ConfigError, match="set loss_type='nll', or give attach"):
        hf.attach(host)
    hf.attach(host, losses=lambda model, batch: batch)
    host = sft(tmp_path)
    host.compute_loss_func = lambda *given, **named: None
    for head in (None, heads.Tokens(shift=True)):
        with pytest.raises(fs.ConfigError, match=r"compute_loss_func .*: give attach"):
            hf.attach(host, head=head)
    with pytest.raises(fs.ConfigError, match=r"with an SFTTrainer; expected heads\.Tokens"):
        hf.attach(sft(tmp_path), head=heads.SingleLabel())


def test_a_trl_without_the_fused_head_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older and newer ones may be: the version that is known is named. Where no fused head is
    asked for, any does."""
    host, smoothed = sft(tmp_path), sft(tmp_path, label_smoothing_factor=0.1)
    monkeypatch.delattr("trl.trainer.utils.add_fused_lm_head")
    with pytest.raises(fs.ConfigError, match=r"install trl 1\.16, or give attach\(.*losses=func"):
        hf.attach(host)
    hf.attach(host, losses=lambda model, batch: batch)
    hf.attach(smoothed)


def test_a_mixture_of_experts_is_refused_with_its_setting(tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    def tiny() -> Any:
        return MixtralForCausalLM(
            MixtralConfig(
                vocab_size=64,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                num_local_experts=2,
                max_position_embeddings=64,
            )
        )

    with pytest.raises(fs.ConfigError, match=r"router_aux_loss_coef=0\.0"):
        hf.attach(sft(tmp_path, model=tiny()))
    host = sft(tmp_path, texts(80), tiny(), router_aux_loss_coef=0.0, num_train_epochs=1)
    hf.attach(host, closed(), **OPTIONS)
    host.train()


def test_switched_off_it_is_the_host_to_the_bit(tmp_path: Path) -> None:
    plain = sft(tmp_path)
    plain.train()
    sieved = sft(tmp_path)  # its making sets the seed
    hf.attach(sieved, "full")
    sieved.train()
    assert same(weights(plain.model), weights(sieved.model))


@pytest.mark.parametrize(("example", "rel"), [("sft.py", 0.0), ("preferences.py", 1e-4)])
def test_the_example_has_one_line_more(tmp_path: Path, example: str, rel: float) -> None:
    runs_with_one_line_more(example, tmp_path, rel=rel)


def test_insights_tell_what_a_row_of_sft_is_like(tmp_path: Path) -> None:
    data = texts(120, prompts=True)
    trainer = sft(tmp_path, data, num_train_epochs=1, max_length=12, completion_only_loss=True)
    attached = fs.attach(trainer, fs.Manual({2: 0.3}, cost_ratio=0.2), **OPTIONS)
    trainer.train()
    found = attached.insights
    rows = list(trainer.train_dataset)  # cut, masked and without those that are masked as a whole
    assert sorted(found["tokens"]) == sorted(len(row["input_ids"]) for row in rows)
    targets = [sum(y != -100 for y in row["labels"]) for row in rows]
    assert sorted(found["targets"]) == sorted(targets)
    whole = sum(row["input_ids"][-1] == tokenizer().eos_token_id for row in rows)
    assert 0 < whole < len(rows)
    assert found["ended"].sum() == whole
    assert found["cut"].sum() == len(rows) - whole  # TRL has put an end behind each text
