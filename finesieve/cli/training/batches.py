"""Tokenised examples and the loader that every method gets: shuffled, grouped by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from finesieve.cli.data.table import Table
from finesieve.cli.tasks.targets import IGNORED, Tagged, Targets

Batch = dict[str, torch.Tensor]
EXAMPLE = "example"


class Examples:
    """Tokenised examples with labels; makes padded batches of any selection.

    Args:
        targets: makes numbers of the labels.

    Attributes:
        labels: by example: what the model is trained on.
        truth: by example: what its predictions are judged by.
    """

    def __init__(self, table: Table, targets: Targets, tokenizer: Any, max_length: int) -> None:
        encoded = tokenizer(
            list(table.texts) if table.words is None else [list(w) for w in table.words],
            None if table.pairs is None else list(table.pairs),
            is_split_into_words=table.words is not None,
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
        self.labels: npt.NDArray[Any] | list[npt.NDArray[Any]] = targets.encode(table, encoded)
        self.truth: Sequence[Any] = targets.truth(table, encoded)

    @property
    def tokens(self) -> Sequence[npt.NDArray[np.int64]]:
        """The token ids of each example."""
        return self._data["input_ids"]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: npt.NDArray[np.int64]) -> Batch:
        """Returns a padded batch of the examples at these places, int64[n].

        It has input_ids, attention_mask (and token_type_ids) int64[n, longest], and labels:
        int64[n], of a regression float32[n], of several classes an example float32[n, classes], of
        tags int64[n, longest] with -100 where there are none.
        """
        width = int(self.lengths[index].max())
        out: Batch = {}
        for field in self.fields:
            values = [self._data[field][i] for i in index]
            out[field] = self._block(values, width, self._pads[field])
        ones = [np.ones(n, dtype=np.int64) for n in self.lengths[index]]
        out["attention_mask"] = self._block(ones, width, 0)
        if isinstance(self.labels, list):
            out["labels"] = self._block([self.labels[i] for i in index], width, IGNORED)
        else:
            out["labels"] = torch.from_numpy(self.labels[index])
        return out

    def _block(
        self, rows: Sequence[npt.NDArray[np.int64]], width: int, padding: int
    ) -> torch.Tensor:
        """Returns rows of different lengths as int64[n, width], padded on the tokenizer's side."""
        block = np.full((len(rows), width), padding, dtype=np.int64)
        for line, row in zip(block, rows, strict=True):
            line[width - len(row) if self._left else 0 :][: len(row)] = row
        return torch.from_numpy(block)

    def placed(self, example: int, width: int) -> Any:
        """Returns the truth of an example, its words' places counted in a batch of this width."""
        truth = self.truth[example]
        if self._left and isinstance(truth, Tagged):
            shift = np.where(truth.places >= 0, width - self.lengths[example], 0)
            return Tagged(truth.tags, truth.places + shift)
        return truth

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
