"""Tokenised examples and the loader that every method gets: shuffled, grouped by length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.cli.data.table import Table
from finesieve.cli.training.targets import Scale

Batch = dict[str, torch.Tensor]
EXAMPLE = "example"


class Examples:
    """Tokenised examples with labels; makes padded batches of any selection.

    Args:
        labels: the number of each class; or the scale of a regression's targets.
    """

    def __init__(
        self, table: Table, labels: Mapping[Any, int] | Scale, tokenizer: Any, max_length: int
    ) -> None:
        encoded = tokenizer(
            table.texts,
            table.pairs,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
        )
        self.fields = [k for k in encoded if k in ("input_ids", "token_type_ids")]
        self._data = {
            k: [np.asarray(row, dtype=np.int64) for row in encoded[k]] for k in self.fields
        }
        self._pads = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0),
        }
        self._left = tokenizer.padding_side == "left"
        self.lengths = np.asarray([len(r) for r in self._data["input_ids"]], dtype=np.int64)
        self.labels: npt.NDArray[Any]
        if isinstance(labels, Scale):
            self.labels = labels.targets(table.labels)
        else:
            self.labels = np.asarray([labels[y] for y in table.labels], dtype=np.int64)

    @property
    def tokens(self) -> Sequence[npt.NDArray[np.int64]]:
        """The token ids of each example."""
        return self._data["input_ids"]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: npt.NDArray[np.int64]) -> Batch:
        """Returns a padded batch of the examples at these places, int64[n].

        It has input_ids, attention_mask (and token_type_ids) int64[n, longest], and labels
        int64[n], of a regression float32[n].
        """
        width = int(self.lengths[index].max())
        out: Batch = {}
        mask = np.zeros((len(index), width), dtype=np.int64)
        for field in self.fields:
            block = np.full((len(index), width), self._pads[field], dtype=np.int64)
            for row, i in enumerate(index):
                values = self._data[field][i]
                where = slice(width - len(values), width) if self._left else slice(len(values))
                block[row, where] = values
                mask[row, where] = 1
            out[field] = torch.from_numpy(block)
        out["attention_mask"] = torch.from_numpy(mask)
        out["labels"] = torch.from_numpy(self.labels[index])
        return out

    def probe(self) -> Batch:
        """Returns a batch of the first two examples, without labels, to look at a model with."""
        batch = self.batch(np.arange(min(2, len(self))))
        del batch["labels"]
        return batch


class Loader:
    """One shuffled epoch: within windows of 32 batches examples of like length share a batch, and
    the batches come in random order. The same order for the same seed and epoch.

    Args:
        some: int64[m], the examples to draw, by place; all by default. A batch's column `EXAMPLE`
            has the places: ids that stay the same from epoch to epoch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        epoch: int,
        some: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._examples, self._batch_size = examples, batch_size
        dice = np.random.default_rng([seed, epoch])
        order = dice.permutation(len(examples)) if some is None else dice.permutation(some)
        window = 32 * batch_size
        cuts = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(examples.lengths[part], kind="stable")]
            pieces = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
            cuts += [pieces[i] for i in dice.permutation(len(pieces))]
        self._cuts = cuts
        self.order = np.concatenate(cuts)  # place in the stream -> example

    def __len__(self) -> int:
        return len(self._cuts)

    def __iter__(self) -> Iterator[Batch]:
        for index in self._cuts:
            yield {**self._examples.batch(index), EXAMPLE: torch.from_numpy(index)}


def by_length(
    examples: Examples, batch_size: int, some: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
    """Yields all examples, or some by place, shortest first: the places int64[n] of each batch, and
    the batch."""
    chosen = np.arange(len(examples)) if some is None else some
    order = chosen[np.argsort(examples.lengths[chosen], kind="stable")]
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        yield index, examples.batch(index)
