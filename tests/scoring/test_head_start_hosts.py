"""The head start in every host, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import finesieve as fs
from tests.conftest import Bag, arguments, by_hand


@pytest.fixture(autouse=True)
def head_start_off() -> None:
    """Here it is on."""


def fitted(sieve: fs.Sieve | None, examples: int | None = None) -> bool:
    assert sieve is not None
    came = sieve.head_start
    assert came is not None
    assert examples is None or came.examples == examples
    return came.fitted


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers by an old name
@pytest.mark.parametrize("lora", [False, True])
def test_trainer(tmp_path: Path, lora: bool) -> None:
    pytest.importorskip("transformers")
    from finesieve.integrations.transformers import attach as hf
    from tests.integrations.transformers import kit as hf_kit

    net: Any = hf_kit.model()
    if lora:
        peft = pytest.importorskip("peft")
        net = peft.get_peft_model(
            net,
            peft.LoraConfig(
                task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["classifier"]
            ),
        )
    host = hf_kit.trainer(
        tmp_path, net, data=hf_kit.Data(400), num_train_epochs=1, learning_rate=1e-9
    )
    head = next(
        m
        for n, m in net.named_modules()
        if n.endswith("classifier.modules_to_save.default" if lora else "classifier")
    )
    before = head.weight.detach().clone()
    attached = hf.attach(host, hf_kit.closed(), **hf_kit.OPTIONS, head_start=128)
    host.train()
    assert fitted(attached.sieve, 128)
    assert (head.weight - before).abs().max() > 0.01  # the rate is next to nothing


def test_trainer_full(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from finesieve.integrations.transformers import attach as hf
    from tests.integrations.transformers import kit as hf_kit

    def run(**more: Any) -> Any:
        host = hf_kit.trainer(tmp_path, data=hf_kit.Data(400), num_train_epochs=1)
        attached = hf.attach(host, "full", **more)
        host.train()
        return host, attached

    host, attached = run()
    assert attached.sieve.head_start is None
    plain = hf_kit.trainer(tmp_path, data=hf_kit.Data(400), num_train_epochs=1)
    plain.train()
    assert hf_kit.same(hf_kit.weights(host), hf_kit.weights(plain))
    host, attached = run(head_start=64)
    assert fitted(attached.sieve, 64)
    assert not hf_kit.same(hf_kit.weights(host), hf_kit.weights(plain))
    assert host.state.global_step == plain.state.global_step


def test_trainer_resumed_in_mid_pass(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from finesieve.integrations.transformers import attach as hf
    from tests.integrations.transformers import kit as hf_kit

    def run(folder: Path, resume: Any = None, **more: Any) -> Any:
        host = hf_kit.trainer(
            folder,
            data=hf_kit.Data(400),
            num_train_epochs=1,
            save_strategy="steps",
            save_steps=5,
            **more,
        )
        hf.attach(host, hf_kit.closed(), **hf_kit.OPTIONS, head_start=64)
        host.train(resume_from_checkpoint=resume)
        return hf_kit.weights(host)

    whole = run(tmp_path / "a")
    assert hf_kit.same(run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-5")), whole)


@pytest.mark.parametrize("total", [None, 600])
def test_accelerate(total: int | None) -> None:
    pytest.importorskip("accelerate")
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from finesieve.integrations.accelerate import FilteredLoader
    from tests.integrations.accelerate.ranks import collate, rows

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = Bag(dropout=0.0)
    loader = DataLoader(rows(600), batch_size=8, collate_fn=collate)
    net, loader, optimizer = accelerator.prepare(
        model, loader, torch.optim.SGD(model.parameters(), lr=0.01)
    )
    filtered = FilteredLoader(
        accelerator,
        loader,
        net,
        by_hand(),
        pool=50,
        group=2,
        head_start=10_000,
        **({} if total is None else {"total": total}),
    )
    synced = []
    for batch in filtered:
        with accelerator.accumulate(net):
            given = fs.inputs(batch)
            labels = given.pop("labels")
            losses = F.cross_entropy(net(**given), labels, reduction="none")
            accelerator.backward(filtered.loss(losses, batch))
            optimizer.step()
            optimizer.zero_grad()
            synced.append(accelerator.sync_gradients)
    assert fitted(filtered.sieve, 600)  # the loader ended long before the first batch was drawn
    # Each step has its four batches but the last: the end was not thought to be near too early.
    steps = [i for i, last in enumerate(synced) if last]
    assert all(b - a == 4 for a, b in zip([-1, *steps], steps[:-1], strict=False))
    assert synced[-1]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from tests.integrations.lightning import kit

    callback = kit.sieved(head_start=128)
    module = kit.Classifier(callback)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1e-9)
    before = module.bag.head.weight.detach().clone()
    host = kit.trainer(tmp_path, callback, max_epochs=1)
    host.fit(module, callback(kit.loader()))
    assert fitted(callback.sieve, 128)
    assert (module.bag.head.weight - before).abs().max() > 0.02


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("examples", "more"),
    [
        (0, ()),  # a twentieth of the 480 are too few, so none is looked at
        (None, ("--limit", "32", "--head-start", "0")),
        (80, ("--limit", "280", "--head-start", "80", "--method", "random", "--freeze", "4")),
        (40, ("--limit", "48", "--head-start", "40", "--method", "full", "--lora", "2")),
    ],
    ids=["default", "off", "random, frozen layers", "full, LoRA"],
)
def test_command_line(
    files: Path, tmp_path: Path, examples: int | None, more: tuple[str, ...]
) -> None:
    if "--lora" in more:
        pytest.importorskip("peft")
    from finesieve.cli.main import main

    assert main(arguments(files, tmp_path / "run", "--eval-limit", "16", *more)) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = summary["head_start"]
    if examples is None:
        assert found is None
        assert summary["examples"]["scored"] == 0
        return
    assert found["fitted"] == (examples > 0)
    assert found["fitted"] or "too few" in found["reason"]
    assert found["examples"] == examples
    assert (summary["seconds"]["score"] > 0) == (examples > 0)
    events = map(json.loads, (tmp_path / "run" / "run.jsonl").read_text().splitlines())
    told = [e["fitted"] for e in events if e["event"] == "head_start"]
    assert told == [found["fitted"]]


def test_names_of_methods_say_who_had_it() -> None:
    from finesieve.cli.comparing.tables import titled

    had = {"head_start": {"fitted": True}}
    assert titled("full", [{}, {"head_start": None}]) == "full"
    assert titled("full", [had, had]) == "full, fitted head"
    assert titled("random", [had, {}]) == "random, fitted head in 1 of 2"
