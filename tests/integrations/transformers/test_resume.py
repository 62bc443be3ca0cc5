"""The Trainer with a sieve, interrupted and resumed: it ends where it would have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import finesieve as fs
from finesieve import methods

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from transformers import (  # noqa: E402
    TrainerCallback,
)

from benchmarks.jobs import renamed  # noqa: E402
from finesieve.integrations.transformers import attach as hf  # noqa: E402
from tests.integrations.transformers.kit import (  # noqa: E402
    OPTIONS,
    Data,
    closed,
    model,
    same,
    trainer,
    weights,
)


class Ends(TrainerCallback):
    """The steps with which passes ended."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.steps.append(str(state.global_step))


@pytest.mark.parametrize("more", [{}, {"max_steps": 14}])
def test_resuming_from_the_last_step_of_a_pass(tmp_path: Path, more: dict[str, Any]) -> None:
    """Nothing is left of that pass: the next one follows."""
    ends = Ends()
    more = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 1, **more}
    more["data"] = Data(120)
    method = closed() if "max_steps" not in more else methods.registry.build("random", 0, share=0.5)
    whole = trainer(tmp_path, callbacks=[ends], **more)
    hf.attach(whole, method, **OPTIONS)
    whole.train()
    again = trainer(tmp_path, model(seed=9), **more)
    attached = hf.attach(again, method, **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{ends.steps[0]}"))
    assert attached.sieve is not None
    assert attached.sieve.passes >= 1
    assert again.state.global_step == whole.state.global_step
    assert same(weights(whole), weights(again))


@pytest.mark.parametrize("at", ["4", "14"])
def test_resuming_ends_at_the_same_weights(tmp_path: Path, at: str) -> None:
    """From the first pass and from the second; the trainer miscounts the passes."""
    more = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "a", **more)
    hf.attach(whole, closed(), **OPTIONS)
    whole.train()
    again = trainer(tmp_path / "a", model(seed=9), **more)
    attached = hf.attach(again, closed(), **OPTIONS)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{at}"))
    assert same(weights(whole), weights(again))
    assert whole.state.global_step == again.state.global_step
    assert attached.sieve is not None
    assert attached.sieve.passes == 2
    assert (tmp_path / "a" / f"checkpoint-{whole.state.global_step}").exists()
    (tmp_path / "a" / "checkpoint-4" / "finesieve-rank0.pt").unlink()
    bare = trainer(tmp_path / "a", **more)
    hf.attach(bare, closed(), **OPTIONS)
    with pytest.raises(fs.StateError, match="saved without a sieve"):
        bare.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))


@pytest.mark.parametrize(
    "args",
    [
        renamed(train_sampling_strategy="group_by_length"),
        {"accelerator_config": {"use_seedable_sampler": False}},
    ],
)
def test_resuming_a_pass_whose_order_is_drawn_when_it_begins(
    tmp_path: Path, args: dict[str, Any]
) -> None:
    more = {"save_strategy": "steps", "save_steps": 2, "data": Data(160), **args}
    whole = trainer(tmp_path, **more)
    hf.attach(whole, closed(), **OPTIONS)
    whole.train()
    for at in (2, 12):
        again = trainer(tmp_path, model(seed=9), **more)
        hf.attach(again, closed(), **OPTIONS)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert same(weights(whole), weights(again))


@pytest.mark.parametrize("at", [4, 30])
def test_switched_off_it_resumes_as_the_host(tmp_path: Path, at: int) -> None:
    more = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, **more).train()
    plain, sieved = (trainer(tmp_path, model(seed=9), **more) for _ in range(2))
    hf.attach(sieved, "full")
    for host in (plain, sieved):
        host.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert same(weights(plain), weights(sieved))


def test_training_again_starts_anew(tmp_path: Path) -> None:
    """Also where the method was given as an object, whose gates learn."""
    host = trainer(tmp_path, num_train_epochs=1, learning_rate=0.0)
    method = closed()
    attached = hf.attach(host, method, **OPTIONS)
    made = []
    for _ in range(2):
        host.train()
        assert attached.sieve is not None
        made.append((attached.sieve, attached.sieve.ledger.examples, host.state.global_step))
    assert made[0][0] is not made[1][0]
    assert made[0][1:] == made[1][1:]
    before, after = closed().forward.state_dict(), method.forward.state_dict()
    assert str(before["predictor"]) == str(after["predictor"])  # it has learned nothing
