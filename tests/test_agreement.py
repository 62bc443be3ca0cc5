"""Two real ranks: no hang on unequal streams, one stage, one threshold, one model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import finesieve as fs
from tests.conftest import make_batches

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("method", ["finesieve", "paper", "budget"])
def test_two_ranks(method: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", str(rank), str(store), method],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]
    out = []
    try:
        for process in processes:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            out.append(json.loads(stdout.strip().splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
            process.communicate()  # else its pipes are found open in a later test
    a, b = out
    assert a["steps"] == b["steps"] > 50
    assert a["moves"] == b["moves"]
    assert [m[0] for m in a["moves"]][:2] == ([1, 3] if method == "budget" else [1, 2])
    assert a["weight"] == b["weight"]
    assert a["threshold"] == b["threshold"]
    assert a["conserved"]
    assert b["conserved"]


def test_ranks_that_know_nothing_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would make different numbers of steps and wait for each other for ever."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    batches = make_batches(40)
    with pytest.raises(fs.ConfigError, match=r"agreement=finesieve\.agreement\.Ranks\(\)"):
        next(iter(fs.Sieve(method="random", total=40)(batches)))
    alone = fs.Sieve(method="random", total=40, agreement=fs.agreement.Alone())  # on purpose
    assert next(iter(alone(batches)))
