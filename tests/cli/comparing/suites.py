"""A small suite and its decoys, made-up records, and a bench whose runs take a told time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finesieve.cli.comparing.bench import Bench
from finesieve.cli.comparing.suite import read_suite
from finesieve.cli.results import pack_examples

SUITE = """
name = "small"
methods = ["full", "finesieve", "random at equal time", "decoys:fake", "decoys:broken"]
claim = ["two"]

[config]
max_length = 12
batch_size = 16
limit = 192
eval_limit = 30
lr = 3e-4

[settings.finesieve]
predictor_bits = 12
starts = { 2 = 0.2, 3 = 0.5 }

[sets.two]
train = "train.jsonl"
eval = ["eval.jsonl"]
"""


DECOYS = """
from finesieve import Gate, Method, methods

class Broken(Gate):
    def decide(self, offer):
        raise MemoryError("no room")

def fake(seed):
    "A random subset that calls itself a filter."
    return methods.registry.build("random", seed + 100, share=0.4)

def broken(seed):
    random = methods.registry.build("random", seed)
    return Method("broken", Broken(), random.backward, random.stages)
"""


def fake_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: Any, noise: Any
) -> tuple[Bench, list[float]]:
    """A bench whose runs take seconds by a formula: the books can be checked."""
    (tmp_path / "train.jsonl").write_text("")
    (tmp_path / "eval.jsonl").write_text("")
    text = SUITE.replace(', "decoys:fake", "decoys:broken"', "")
    (tmp_path / "s.toml").write_text(text)
    made = Bench(
        read_suite(tmp_path / "s.toml"),
        str(tmp_path),
        str(tmp_path / "out"),
        1,
        say=print,
    )
    shares: list[float] = []

    def process(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        share = {"full": 1.0, "finesieve": 0.3}.get(config.method)
        if share is None:
            share = config.settings["share"]
            shares.append(share)
        plain = config.method in ("full", "finesieve")
        total = 100 * share if plain else rival(share) * noise(len(shares))
        seconds = {"total": total, "train": total * 0.9}
        return {
            "seconds": seconds,
            "eval": {"accuracy": 0.9, "loss": 0.1},
            "examples": {"drawn": 1000, "trained": round(1000 * share)},
        }

    monkeypatch.setattr(Bench, "_process", process)
    return made, shares


def record(name: str, seed: int, loss: Any, **more: Any) -> dict[str, Any]:
    right = np.asarray(loss) < 0.7
    return {
        "role": "claim",
        "set": more.pop("set", "one"),
        "name": name,
        "seed": seed,
        "eval_examples": pack_examples(loss, right),
        "stages": [{}, {}],
        "eval": {"loss": float(np.mean(loss)), "accuracy": float(right.mean()), "n": len(right)},
        "seconds": {"total": 10.0},
        "examples": {"drawn": 100, "trained": 30, "scored": 40},
        **more,
    }
