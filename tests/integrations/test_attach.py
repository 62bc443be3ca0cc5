"""`finesieve.attach`: one verb, by the trainer's type."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import finesieve as fs
from finesieve.sieve.record import Spikes
from tests.conftest import Bag


def test_a_hugging_face_trainer_and_back(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.integrations.transformers import kit

    host = kit.trainer(tmp_path, num_train_epochs=1)
    own = {name: getattr(host, name) for name in ("compute_loss", "train", "log")}
    attached = fs.attach(host, fs.Manual({2: 0.0}, train=0.3, cost_ratio=0.2), **kit.OPTIONS)
    assert attached.insights.rows == 0
    host.train()
    assert attached.sieve.stage == 2
    assert attached.insights.rows == attached.sieve.ledger.examples.drawn
    assert attached.insights["trained"].sum() < attached.insights["times"].sum()
    assert attached.figures()["sieve_trained"] < 0.7
    attached.detach()
    assert {name: getattr(host, name) for name in own} == own


def test_detached_before_it_trains_a_trainer_is_as_if_it_had_never_been_attached(
    tmp_path: Path,
) -> None:
    pytest.importorskip("transformers")
    from tests.integrations.transformers import kit

    plain = kit.trainer(tmp_path, num_train_epochs=1)
    plain.train()
    host = kit.trainer(tmp_path, num_train_epochs=1)
    fs.attach(host, fs.Manual({2: 0.0}, train=0.3, cost_ratio=0.2)).detach()
    assert host.args.ignore_data_skip == plain.args.ignore_data_skip
    host.train()
    assert kit.same(kit.weights(host), kit.weights(plain))
    fs.attach(host, "full")  # and again


def test_a_lightning_trainer(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from tests.integrations.lightning import kit

    host = kit.trainer(tmp_path, max_epochs=1)
    sieved = fs.attach(host, kit.closed(), head=fs.heads.SingleLabel())
    assert sieved in host.callbacks
    assert sieved.insights.rows == 0
    with pytest.raises(fs.ConfigError, match="attached to this trainer already"):
        fs.attach(host, kit.closed(), head=fs.heads.SingleLabel())
    sieved.detach()
    assert sieved not in host.callbacks  # also before the first training
    with pytest.raises(fs.SettingError, match="no setting 'poool'"):
        fs.attach(host, kit.closed(), head=fs.heads.SingleLabel(), poool=128)


def test_what_is_no_trainer() -> None:
    pytest.importorskip("accelerate")
    from accelerate import Accelerator

    with pytest.raises(fs.ConfigError, match=r"a Bag; expected a Trainer.*finesieve\.Sieve"):
        fs.attach(Bag())
    with pytest.raises(fs.ConfigError, match="FilteredLoader"):
        fs.attach(Accelerator(cpu=True))
    with pytest.raises(fs.ConfigError, match="a str; expected a Trainer of transformers, TRL or"):
        fs.attach("trainer")


@pytest.mark.parametrize("method", [fs.Full(), fs.Manual({2: 0.3}, cost_ratio=0.2)])
def test_a_spike_in_a_trainer_names_its_row(tmp_path: Path, method: fs.Full | fs.Manual) -> None:
    pytest.importorskip("transformers")
    from tests.integrations.transformers import kit

    def host() -> Any:
        data = kit.Data(300, lambda i, ids: int(i == 250), row=lambda i, ids: i)
        net = kit.model()
        with torch.no_grad():  # sure of label 0, which all rows but one have
            net.classifier.weight.zero_()
            net.classifier.bias.copy_(torch.tensor([9.0, 0.0]))
        args = {"learning_rate": 0.0, "gradient_accumulation_steps": 1, "warmup_steps": 0}
        return kit.trainer(tmp_path, net, data, **args)

    told: list[int] = []
    trainer = host()
    spikes = Spikes(lambda ids, losses: told.append(int(ids[0])))
    attached = fs.attach(trainer, method, id_key="row", listeners=[spikes], head_start=0)
    trainer.train()
    assert told
    assert set(told) == {250}
    assert attached.insights["id"].tolist() == list(range(300))


def test_who_only_looks_changes_nothing_in_a_trainer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.integrations.transformers import kit

    plain = kit.trainer(tmp_path, num_train_epochs=1)
    plain.train()
    host = kit.trainer(tmp_path, num_train_epochs=1)
    attached = fs.attach(host, "full", listeners=[lambda event: None])
    host.train()
    assert kit.same(kit.weights(host), kit.weights(plain))
    assert attached.insights["trained"].tolist() == [1] * 300


def test_spikes_hear_of_every_batch_in_lightning_and_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("accelerate")
    from tests.integrations.accelerate.ranks import OPTIONS, Run, closed
    from tests.integrations.lightning import kit

    told: list[int] = []
    always = Spikes(lambda ids, losses: told.append(len(ids)), times=-1e9)  # whatever the loss is
    sieved = kit.sieved(kit.never(), listeners=[always])
    host = kit.trainer(tmp_path, sieved, max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints
        host.fit(kit.Classifier(sieved), sieved(kit.loader()))
    assert told == [kit.SIZE] * (kit.N // kit.SIZE - 16)  # the first are what others are held to
    told.clear()
    run = Run(closed(starts={}), epochs=1, n=160, options={**OPTIONS, "listeners": [always]})
    assert told == [8] * 20  # it has its median already
    assert run.stream.insights["times"].tolist() == [1] * 160


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"options": fs.SieveOptions(pool=64)}, "give the fields of SieveOptions one by one"),
        ({"scorer": Bag()}, "the trainer's own is used; leave it out"),
        ({"model": Bag()}, "it has the host's"),
    ],
)
def test_what_a_sieve_takes_and_a_host_does_not_is_told(
    setting: dict[str, Any], why: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from tests.integrations.transformers.kit import Data, model, trainer

    with pytest.raises(fs.ConfigError, match=why):
        fs.attach(trainer(tmp_path, model(), Data(64)), **setting)
