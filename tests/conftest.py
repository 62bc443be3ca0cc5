"""Shared helpers: streams of small batches, a tiny model, real data and the real encoder."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import finesieve as fs
from finesieve.scoring.protocol import Scorer, Scores

# Side by side with others a process has one thread: more threads than cores wait for each other,
# and burn a core each meanwhile. The environment comes from the process that started the others,
# which has set two threads for itself here.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else int(os.environ.get("OMP_NUM_THREADS", "2"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of what tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data-dir", help="folder with the benchmark datasets, for -m shared")


# What takes longest comes first: a long file that is begun last keeps one process waiting.
LONGEST = (
    "integrations/transformers/test_ranks.py",
    "integrations/transformers/test_attach.py",
    "integrations/transformers/test_settings.py",
    "integrations/transformers/test_resume.py",
    "cli/comparing/test_bench.py",
    "cli/training/test_run.py",
    "cli/training/test_settings.py",
    "sieve/test_sieve.py",
    "sieve/test_ranks.py",
    "integrations/lightning/test_lightning.py",
    "integrations/transformers/test_totals.py",
    "integrations/transformers/test_sentence_transformers.py",
    "integrations/transformers/test_trl.py",
    "scoring/test_head_start_hosts.py",
)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist's order is by the number of tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    there = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: there.get(item.path, len(there)))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="module", autouse=True)
def _what_is_loaded_stays() -> None:
    """Keep the garbage collector from going through all that was imported: a Trainer calls it at
    every start, and with large libraries loaded that takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """There transformers 4 leaves one Trainer's settings to all that come later."""
    for name in ("DYNAMO_BACKEND", "MIXED_PRECISION"):
        monkeypatch.setenv(f"ACCELERATE_{name}", "no")


@pytest.fixture(autouse=True)
def head_start_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head start changes the model before the first step, which tests of all else do not want.
    Those that are about it have a fixture of this name that does nothing."""
    plain = fs.Sieve.__init__

    @functools.wraps(plain)
    def without(self: fs.Sieve, *args: Any, **more: Any) -> None:
        plain(self, *args, **{"head_start": 0, **more})

    monkeypatch.setattr(fs.Sieve, "__init__", without)


def make_batches(n: int = 400, batch: int = 8, seed: int = 0, longest: int = 12) -> list[Any]:
    """Dict batches as Hugging Face makes them: padded to the longest, in a fixed order.

    The first token tells the label (above or below 50), except in a fifth of the examples.
    """
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (n,), generator=g)
    tokens = torch.randint(1, 100, (n, longest), generator=g)
    noise = torch.rand(n, generator=g) < 0.2
    labels = ((tokens[:, 0] > 50) ^ (noise & (torch.rand(n, generator=g) < 0.5))).long()
    out = []
    for i in range(0, n, batch):
        size = lengths[i : i + batch]
        width = int(size.max())
        mask = (torch.arange(width)[None] < size[:, None]).long()
        out.append(
            {
                "input_ids": tokens[i : i + batch, :width] * mask,
                "attention_mask": mask,
                "labels": labels[i : i + batch],
            }
        )
    return out


class Bag(nn.Module):
    """Mean of embeddings, dropout, a linear head: small, but it learns."""

    def __init__(self, seed: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(128, 16)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        mean = (self.embed(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.head(self.drop(mean) + self.embed(input_ids[:, 0]))


class TableScorer(Scorer):
    """Loss and size as a fixed function of the tokens: a model that never changes."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, batch: Any) -> Scores:
        values = (batch["input_ids"][:, 0].float() / 100 + 0.01) ** 3 * 2
        self.calls.append(len(values))
        return Scores(values.numpy(), values.numpy())


def by_hand(seed: int = 0, **settings: Any) -> fs.Method:
    """finesieve with stages at fixed places: 10 % and 30 % of the stream; nothing depends on a
    clock."""
    return fs.methods.registry.build(
        "finesieve", seed, predictor_bits=12, starts={2: 0.1, 3: 0.3}, cost_ratio=0.2, **settings
    )


def small_sieve(total: int = 400, **more: Any) -> fs.Sieve:
    """A sieve with small pools over a model that never changes; `more` are arguments of `Sieve`
    and fields of `SieveOptions`."""
    fields = {field.name for field in dataclasses.fields(fs.SieveOptions)}
    options = {name: more.pop(name) for name in fields & set(more)}
    return fs.Sieve(
        **{"scorer": TableScorer(), "method": by_hand(), "total": total, **more},
        options=fs.SieveOptions(**{"pool": 50, "group": 2, **options}),
    )


def train(
    sieve: fs.Sieve, batches: list[Any], model: Bag, optimizer: Any, stop: int | None = None
) -> list[Any]:
    """A plain loop; returns the batches it saw."""
    seen = []
    for batch in sieve(batches):
        given = fs.inputs(batch)
        labels = given.pop("labels")
        losses = F.cross_entropy(model(**given), labels, reduction="none")
        sieve.loss(losses, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(batch)
        if stop is not None and len(seen) == stop:
            break
    return seen


def ids_of(batches: list[Any]) -> list[int]:
    return [i for b in batches for i in b["sieve_ids"].tolist()]


@pytest.fixture(scope="session")
def docstring_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built-in dataset, built once a session, for all of its processes; of fewer texts."""
    folder = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tmp_path_factory.getbasetemp().parent / "cache"
    patch = pytest.MonkeyPatch()
    patch.setenv("FINESIEVE_CACHE", str(folder))
    patch.setattr("finesieve.cli.data.docstrings.MOST", 300)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl (480 docstrings of two libraries), eval.jsonl (120), and the folder model."""
    folder = tmp_path_factory.mktemp("data")
    from finesieve.cli.data import docstrings
    from tests.tiny import encoder_folder

    rows = [
        {"text": text, "label": name}
        for name in ("torch", "sympy")
        for text in docstrings._texts(name, 300)
    ]
    random.Random(0).shuffle(rows)
    for name, part in (("train", rows[:480]), ("eval", rows[480:])):
        lines = [json.dumps(r) + "\n" for r in part]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    encoder_folder(folder / "model")
    return folder


QUICK = ["--max-length", "16", "--batch-size", "16", "--lr", "3e-4", "--threads", str(THREADS)]
BY_HAND = [
    "--set",
    'starts={"2": 0.2, "3": 0.5}',
    "--set",
    "predictor_bits=12",
    "--set",
    "cost_ratio=0.2",
]  # nothing depends on a clock


def arguments(files: Path, output: Path, *more: str, command: str = "train") -> list[str]:
    """A command on small data with a tiny model, quickly."""
    return [
        command,
        "--train",
        str(files / "train.jsonl"),
        "--eval",
        str(files / "eval.jsonl"),
        "--output",
        str(output),
        "--model",
        str(files / "model"),
        "--quiet",
        *QUICK,
        *more,
    ]


@pytest.fixture(scope="session")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all three stages."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    from finesieve.cli.main import main

    assert main(arguments(files, output, *BY_HAND)) == 0
    return output


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder and its tokenizer, in MiniLM's place."""
    from tests.tiny import encoder as made

    return made(tmp_path_factory.mktemp("encoder"))
