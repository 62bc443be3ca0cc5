"""`finesieve.attach`: one verb, by the trainer's type."""

from __future__ import annotations

from pathlib import Path

import pytest

import finesieve as fs
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


def test_what_is_no_trainer() -> None:
    pytest.importorskip("accelerate")
    from accelerate import Accelerator

    with pytest.raises(fs.ConfigError, match=r"a Bag; expected a Trainer.*finesieve\.Sieve"):
        fs.attach(Bag())
    with pytest.raises(fs.ConfigError, match="FilteredLoader"):
        fs.attach(Accelerator(cpu=True))
    with pytest.raises(fs.ConfigError, match="a str; expected a Trainer of transformers, TRL or"):
        fs.attach("trainer")
