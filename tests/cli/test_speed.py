"""What the command line does for speed on a CPU: attention, and memory that stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from finesieve.cli import main as cli
from finesieve.cli import worker
from finesieve.cli.config import Config
from finesieve.cli.training.models import pick_attention, precision_note
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.train import Run
from finesieve.errors import ConfigError

RESIDENT = """
import ctypes, sys
from finesieve.cli.memory import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
size, before = 100 << 20, resident()
at = malloc(size)
ctypes.memset(at, 1, size)
free(at)
print(resident() - before > size // 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    found = {
        how: subprocess.run(
            [sys.executable, "-c", RESIDENT, how],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            timeout=120,
        ).stdout.strip()
        for how in ("default", "kept")
    }
    assert found == {"default": "False", "kept": "True"}


def test_the_command_line_and_the_workers_of_benchmarks_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(cli, "keep_memory", lambda: told.append("cli"))
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    monkeypatch.setattr("finesieve.cli.memory.keep_memory", lambda: told.append("worker"))
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"config": {"train": "x", "eval": []}}))
    assert worker.main(str(spec), str(tmp_path / "out.json"), lambda config: {"done": 1}) == 0
    assert told == ["cli", "worker"]


def test_attention_is_eager_where_the_fused_one_is_slow() -> None:
    def picked(device: str = "cpu", **given: Any) -> str | None:
        return pick_attention(
            Config(**{"train": "x", "precision": "bf16", **given}), torch.device(device)
        )

    assert picked(max_length=256) == "eager"
    assert picked(max_length=512) is None  # its memory grows with the square
    assert picked(precision="fp32", max_length=64) is None
    assert picked("cuda", max_length=64) is None
    assert picked(attention="sdpa", max_length=64) == "sdpa"
    with pytest.raises(ConfigError, match="attention is 'flash'"):
        Config(train="x", attention="flash")


@pytest.mark.parametrize("able", [True, False])
def test_bf16_without_the_instructions_for_it_is_told(
    files: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    """A tenth of the speed of fp32 on such a processor, which nobody expects."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    told = [
        any(
            "bf16 is slow here" in note
            for note in prepare(
                Config(train=str(files / "train.jsonl"), limit=32, precision=precision)
            ).notes
        )
        for precision in ("bf16", "fp32")
    ]
    assert told == [not able, False]
    assert precision_note("bf16", torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"precision": "bf16"}, "eager"),
        ({"precision": "fp32"}, "sdpa"),
        ({"precision": "fp32", "attention": "eager"}, "eager"),
    ],
)
def test_the_model_has_the_attention_that_was_picked(
    files: Path, given: dict[str, Any], used: str
) -> None:
    config = Config(train=str(files / "train.jsonl"), limit=32, method="full", **given)
    run = Run(config, prepare(config), None, Live("full", quiet=True))
    assert run.model.config._attn_implementation == used
