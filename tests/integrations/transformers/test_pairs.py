"""TRL's trainers of preference pairs and rewards, with a sieve attached to them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finesieve as fs
from tests.tiny import (
    OPTIONS,
    bert,
    causal,
    closed,
    documented,
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
from trl import (  # noqa: E402
    DPOConfig,
    DPOTrainer,
    RewardConfig,
    RewardTrainer,
)

from finesieve.integrations.transformers import attach as hf  # noqa: E402
from finesieve.integrations.transformers import trl as hf_trl  # noqa: E402
from tests.integrations.transformers.kit import TRL  # noqa: E402


def preferences(n: int = 240) -> Dataset:
    """Mostly the word w1 is preferred to w2."""
    dice, rows = np.random.default_rng(4), []
    for _ in range(n):
        good, bad = " w1 w1" * int(dice.integers(1, 5)), " w2 w2" * int(dice.integers(1, 5))
        if dice.random() < 0.1:
            good, bad = bad, good
        rows.append({"prompt": sentence(dice, 6), "chosen": good, "rejected": bad})
    return Dataset.from_list(rows)


def dpo(folder: Path, seed: int = 0, dropout: float = 0.1, **args: Any) -> DPOTrainer:
    return DPOTrainer(
        causal(seed, dropout),
        causal(),
        args=DPOConfig(str(folder), **{**TRL, "save_strategy": "no", **args}),
        train_dataset=preferences(),
        processing_class=tokenizer(),
    )


def preferred(trainer: DPOTrainer) -> Any:
    return documented("dpo_losses", trainer=trainer)


def test_preference_pairs_stay_together(tmp_path: Path) -> None:
    host = dpo(tmp_path)
    with pytest.raises(fs.ConfigError, match="DPOTrainer has a compute_loss of its own"):
        hf.attach(host)
    batch = host.data_collator([host.train_dataset[i] for i in range(6)])
    there_and_back = hf_trl.unfold(hf_trl.fold(batch))
    assert all(torch.equal(there_and_back[k], v) for k, v in batch.items())
    host.model.eval()
    own = host.compute_loss(host.model, dict(batch))
    each = preferred(host)(host.model, batch)
    torch.testing.assert_close(each.mean(), own)
    # Each pair's is the host's loss of that pair alone.
    for i, loss in enumerate(each):
        alone = {
            k: v[[i, len(each) + i]] if len(v) == 2 * len(each) else v[[i]]
            for k, v in batch.items()
        }
        torch.testing.assert_close(loss, host.compute_loss(host.model, alone))

    size = documented("pair_size")
    margins = torch.tensor([-4.0, -0.5, 0.0, 2.0], requires_grad=True)
    losses = -torch.nn.functional.logsigmoid(margins)
    losses.sum().backward()
    np.testing.assert_allclose(size(losses.detach().numpy()), margins.grad.abs(), rtol=1e-5)
    attached = hf.attach(host, closed(), losses=preferred(host), size=size, **OPTIONS)
    host.train()
    sieve = attached.sieve
    assert sieve is not None
    assert sieve.stage == 3
    assert sieve.ledger.examples.drawn == 480
    assert 0 < sieve.ledger.examples.scored < 480
    assert sieve.ledger.examples.yielded < 400
    logs = [h["loss"] for h in host.state.log_history if "loss" in h]
    assert logs[0] == pytest.approx(math.log(2), rel=0.2)
    assert logs[-1] < 0.8 * logs[0]


def test_pairs_switched_off_are_the_hosts_to_the_bit(tmp_path: Path) -> None:
    plain, sieved = dpo(tmp_path), dpo(tmp_path)
    plain.train()
    hf.attach(sieved, "full")
    sieved.train()
    assert same(weights(plain.model), weights(sieved.model))


def test_pairs_with_open_gates_are_the_hosts(tmp_path: Path) -> None:
    plain = dpo(tmp_path, dropout=0.0, lr_scheduler_type="constant")
    plain.train()
    sieved = dpo(tmp_path, dropout=0.0, lr_scheduler_type="constant")
    hf.attach(sieved, closed(starts={}), losses=preferred(sieved))
    sieved.train()
    for a, b in zip(weights(plain.model), weights(sieved.model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_resuming_with_pairs_held_ends_at_the_same_weights(tmp_path: Path) -> None:
    more = {"save_strategy": "steps", "save_steps": 2}
    whole = dpo(tmp_path, **more)
    hf.attach(whole, closed(), losses=preferred(whole), **OPTIONS)
    whole.train()
    again = dpo(tmp_path, 9, **more)
    hf.attach(again, closed(), losses=preferred(again), **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert same(weights(whole.model), weights(again.model))


def rewarding(folder: Path) -> RewardTrainer:
    model = bert(1)
    model.config.pad_token_id = 0
    return RewardTrainer(
        model,
        RewardConfig(str(folder), **{**TRL, "learning_rate": 1e-2, "save_strategy": "no"}),
        train_dataset=preferences(),
        processing_class=tokenizer(),
    )


def test_rewards_switched_off_are_the_hosts_to_the_bit(tmp_path: Path) -> None:
    import transformers

    if transformers.__version__.startswith("4."):
        pytest.skip("its classifiers take no use_cache, which TRL's own loss gives them")
    plain = rewarding(tmp_path)
    plain.train()
    sieved = rewarding(tmp_path)  # its making sets the seed
    hf.attach(sieved, "full")
    sieved.train()
    assert same(weights(plain.model), weights(sieved.model))


def test_rewards(tmp_path: Path) -> None:
    host = rewarding(tmp_path)
    attached = hf.attach(host, closed(), losses=documented("reward_losses"), **OPTIONS)
    host.train()
    assert attached.sieve is not None
    assert attached.sieve.stage == 3
    assert attached.sieve.ledger.examples.yielded < 400
    logs = [h["loss"] for h in host.state.log_history if "loss" in h]
    assert logs[-1] < 0.9 * logs[0]
