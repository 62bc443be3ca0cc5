"""The Trainer's adapter on two ranks: two processes as of torchrun, several trainings, asserts.

The last training fails on one rank, as a user's might.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import finesieve as fs

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from finesieve.integrations.transformers import attach as hf
from tests.forked import Run, together
from tests.integrations.transformers.kit import OPTIONS, closed, trainer

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    alone = trainer(folder / "alone", save_strategy="steps", save_steps=4, max_steps=4)
    hf.attach(alone, closed(starts={}), **OPTIONS)
    alone.train()  # its checkpoint cannot be taken up by two ranks
    run = Run("tests.integrations.transformers.ranks", [str(folder)], {"OMP_NUM_THREADS": "1"})
    return together(run, timeout=300)[0]


@pytest.fixture(scope="module")
def ranks(folder: Path, finished: subprocess.CompletedProcess[str]) -> list[Facts]:
    files = [folder / f"rank{n}.json" for n in range(2)]
    assert all(f.exists() for f in files), finished.stderr
    return [json.loads(f.read_text()) for f in files]


def test_switched_off_it_is_the_host_to_the_bit(ranks: list[Facts]) -> None:
    for rank in ranks:
        off = rank["off"]
        assert off["full"]
        assert off["open"]
        assert off["learned"]
        assert off["steps"] == [10, 10, 8, 8]
    assert ranks[0]["off"]["weights"] == ranks[1]["off"]["weights"]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_ranks_stay_together(ranks: list[Facts], length: str, parts: int) -> None:
    a, b = (rank["closed"][f"{length} {parts}"] for rank in ranks)
    for same_on_both in ("steps", "moves", "weights", "passes", "batches", "rates"):
        assert a[same_on_both] == b[same_on_both]
    for rank in (a, b):
        assert rank["batches"] == [parts] * rank["steps"]
        assert rank["conserved"]
        assert rank["yielded"] < 0.9 * rank["drawn"]
    if length == "steps":
        assert a["steps"] == 13
        return
    assert a["moves"] == [1, 2, 3]
    assert a["passes"] == 2
    assert a["drawn"] == b["drawn"] == 2 * 80  # 150 made even
    assert a["progress"] == b["progress"] == pytest.approx(1.0)
    assert a["held"] == b["held"] == 0
    assert 0 <= a["rates"][-1] < 0.15 * max(a["rates"])


@pytest.mark.parametrize("parts", [1, 2])
def test_one_rank_s_survivors_run_out_first(ranks: list[Facts], parts: int) -> None:
    """It has half as many as the other, and fillers until that has none left either."""
    a, b = (rank["closed"][f"lopsided {parts}"] for rank in ranks)
    for same_on_both in ("steps", "weights", "passes", "batches", "rates"):
        assert a[same_on_both] == b[same_on_both]
    assert a["passes"] == 2
    assert a["conserved"]
    assert b["conserved"]
    assert a["drawn"] == b["drawn"] == 2 * 80
    assert [a["yielded"], b["yielded"]] == [2 * 40, 2 * 20]
    assert a["held"] == b["held"] == 0
    assert a["progress"] == b["progress"] == pytest.approx(1.0)
    assert a["batches"] == [parts] * a["steps"]
    assert a["steps"] == {1: 10, 2: 6}[parts]


def test_the_gradient_has_the_host_s_scale(ranks: list[Facts]) -> None:
    for rank in ranks:
        scales = dict(rank["scales"])
        rolls = scales.pop("rolls")
        assert len(scales) >= 7
        assert max(scales.values()) < 1e-4, scales
        assert 0.8 < rolls[0] < 1.2  # along the host's
        assert rolls[1] < 0.7
    assert ranks[0]["scales"] == ranks[1]["scales"]


def test_resuming_ends_at_the_same_weights(ranks: list[Facts]) -> None:
    for rank in ranks:
        resumed = dict(rank["resumed"])
        for name in ("ours", "lopsided"):
            assert resumed[name]["files"] == ["finesieve-rank0.pt", "finesieve-rank1.pt"]
            assert resumed[name]["ends"][-1] == resumed[name]["steps"]
        assert [v for v in resumed.values() if v is False] == [], resumed
        assert sum(v is True for v in resumed.values()) == 4
    assert ranks[0]["resumed"]["ours"] == ranks[1]["resumed"]["ours"]


def test_another_number_of_ranks_is_refused(folder: Path, ranks: list[Facts]) -> None:
    said = [rank["resumed"]["more ranks"] for rank in ranks]
    assert "saved by a run of 1 ranks, this one has 2" in said[0]
    assert "has no finesieve-rank1.pt" in said[1]
    assert all(s.startswith("StateError") for s in said)
    alone = trainer(folder / "ours")
    hf.attach(alone, closed(), **OPTIONS)
    with pytest.raises(fs.StateError, match="saved by a run of 2 ranks, this one has 1"):
        alone.train(resume_from_checkpoint=str(folder / "ours" / "checkpoint-3"))


def test_evaluation_and_logs(ranks: list[Facts]) -> None:
    for n, rank in enumerate(ranks):
        evaluated = rank["evaluated"]
        assert evaluated["drawn"] == 2 * 152
        assert evaluated["evaluations"] == 3
        assert evaluated["losses"][0] == evaluated["losses"][1]
        assert evaluated["logged"] > 5
        assert evaluated["shown"] == (evaluated["logged"] if n == 0 else 0)
        assert 0 < evaluated["figures"]["sieve_trained"] < 0.9
    assert ranks[0]["evaluated"]["own"] != ranks[1]["evaluated"]["own"]


def test_loaders(ranks: list[Facts]) -> None:
    for rank in ranks:
        loaders = rank["loaders"]
        assert loaders["dispatched"].startswith("ConfigError")
        assert "accelerator_config={'dispatch_batches': False}" in loaders["dispatched"]
        assert loaders["full"] == loaders["sharded"]["steps"] == 12
        split = loaders["split"]
        assert split["passes"] == 2
        assert split["progress"] > 0.9
        assert split["moves"] == [1, 2, 3]
    for name in ("sharded", "split"):
        assert ranks[0]["loaders"][name]["weights"] == ranks[1]["loaders"][name]["weights"]


def test_supervised_fine_tuning(ranks: list[Facts]) -> None:
    a, b = (rank["supervised"] for rank in ranks)
    if a is None:
        pytest.skip("needs trl and datasets")
    for same_on_both in ("steps", "moves", "weights", "batches", "rates"):
        assert a[same_on_both] == b[same_on_both]
    assert a["moves"] == [1, 2, 3]
    assert a["passes"] == 2
    assert a["yielded"] < 0.9 * a["drawn"]


def test_an_error_on_one_rank_ends_all(
    ranks: list[Facts], finished: subprocess.CompletedProcess[str]
) -> None:
    """torchrun ends the rank that waits."""
    assert finished.returncode != 0
    assert "RuntimeError: no loss on rank 1" in finished.stderr
