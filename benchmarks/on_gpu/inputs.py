"""Makes what the check needs where files and packages are at hand, and reads it where they are not.

A folder holds `minilm/` (MiniLM-L6 in half precision, 45 MB) and one `NAME.npz` for each set:
token ids, the place where each text begins, and labels, for training and for evaluation.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SETS = {  # files of --data-dir: to train on, and to evaluate on
    "sst2": ("train", ("validation",)),
    "clickbait": ("train", ("validation", "test")),
    "snips": ("train", ("validation", "test")),
}
LONGEST = 64  # tokens of a text
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Texts:
    """Tokenized texts.

    tokens: uint16, one text after the other. starts: int64[n + 1]. labels: int64[n].
    """

    tokens: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, count: int) -> Texts:
        """Returns `count` of the texts, drawn at random, for ever the same; or all if fewer."""
        if count >= len(self):
            return self
        rows = np.random.default_rng(0).permutation(len(self))[:count]
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        tokens = [self.tokens[self.starts[i] : self.starts[i + 1]] for i in rows]
        return Texts(np.concatenate(tokens), starts, self.labels[rows])

    def modulo(self, words: int) -> Texts:
        """Returns texts of the same lengths, with token ids below `words`."""
        return Texts(self.tokens % np.uint16(words), self.starts, self.labels)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Returns these texts, padded to the longest of them, on the CPU."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        place = np.arange(int(lengths.max()))
        mask = place < lengths[:, None]
        ids = np.zeros(mask.shape, dtype=np.int64)
        ids[mask] = self.tokens[(self.starts[rows, None] + place)[mask]]
        columns = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        columns["labels"] = self.labels[rows]
        return {key: torch.from_numpy(value) for key, value in columns.items()}


def batches(
    texts: Texts, size: int, device: torch.device, seed: int, group: int = 16
) -> Iterator[Batch]:
    """Yields one pass in random order, on the device; `group` batches at a time sorted by length.

    Where the device is a GPU the copies are made from pinned memory and nobody waits for them.
    """
    dice = np.random.default_rng(seed)
    order = dice.permutation(len(texts))
    lengths = np.diff(texts.starts)
    for at in range(0, len(order), size * group):
        rows = order[at : at + size * group]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        cuts = [rows[i : i + size] for i in range(0, len(rows), size)]
        for i in dice.permutation(len(cuts)):
            yield placed(texts.batch(cuts[i]), device)


def placed(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch on the device."""
    if device.type != "cuda":
        return {key: value.to(device) for key, value in batch.items()}
    return {key: value.pin_memory().to(device, non_blocking=True) for key, value in batch.items()}


def made_up(count: int, longest: int, words: int, seed: int) -> Texts:
    """Returns random tokens, half as many as `longest` to `longest` a text, with two labels."""
    dice = np.random.default_rng(seed)
    lengths = dice.integers(max(1, longest // 2), longest + 1, count)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    tokens = dice.integers(5, min(words, 65_000), int(starts[-1])).astype(np.uint16)
    return Texts(tokens, starts, dice.integers(0, 2, count))


def prepare(folder: Path, data_dir: Path | None) -> None:
    """Writes the folder; without `data_dir` one set is made, of docstrings of installed packages.

    Needs what `pip install 'finesieve[demo]'` brings.
    """
    from transformers import AutoModel, AutoTokenizer

    from finesieve.cli.training.models import resolve

    folder.mkdir(parents=True, exist_ok=True)
    AutoModel.from_pretrained(resolve("minilm")).half().save_pretrained(folder / "minilm")
    tokenizer = AutoTokenizer.from_pretrained(resolve("minilm"))
    for name, parts in _rows(data_dir):
        told = sorted({row["label"] for row in parts[0]})
        arrays: dict[str, Any] = {"classes": len(told)}
        for part, rows in zip(("train", "eval"), parts, strict=True):
            texts = [row["text"] for row in rows]
            ids = tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
            arrays[f"{part}_tokens"] = np.concatenate([np.array(x, np.uint16) for x in ids])
            arrays[f"{part}_starts"] = np.concatenate(([0], np.cumsum([len(x) for x in ids])))
            arrays[f"{part}_labels"] = np.array([told.index(r["label"]) for r in rows], np.uint8)
        np.savez_compressed(folder / f"{name}.npz", **arrays)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


def _rows(data_dir: Path | None) -> Iterator[tuple[str, tuple[list[Any], list[Any]]]]:
    """Each set's name, and its rows to train on and to evaluate on."""
    if data_dir is None:
        from finesieve.cli.training import docstrings

        yield "docstrings", (docstrings.rows("train"), docstrings.rows("test"))
        return
    for name, (train, evaluated) in SETS.items():
        folder = data_dir / name
        yield name, (_lines(folder, (train,)), _lines(folder, evaluated))


def _lines(folder: Path, parts: Iterable[str]) -> list[Any]:
    """The rows of these parts of a set."""
    rows = []
    for part in parts:
        with gzip.open(folder / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows += [json.loads(line) for line in file]
    return rows


def sets_in(folder: Path) -> list[str]:
    """Returns the names of the sets that the folder holds, in the order in which they are run."""
    found = {file.stem for file in folder.glob("*.npz")}
    return [x for x in SETS if x in found] + sorted(found - set(SETS))


def read(folder: Path, name: str) -> tuple[Texts, Texts, int]:
    """Returns a set's texts to train on, those to evaluate on, and the number of classes."""
    with np.load(folder / f"{name}.npz") as file:
        parts = [
            Texts(
                file[f"{part}_tokens"],
                file[f"{part}_starts"].astype(np.int64),
                file[f"{part}_labels"].astype(np.int64),
            )
            for part in ("train", "eval")
        ]
        return parts[0], parts[1], int(file["classes"])
