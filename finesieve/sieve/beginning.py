"""What happens before anything is trained: the last layer's head start, and a trial of the scorer.

Both fail in the first second where the scoring pass cannot work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows
from finesieve.costs.ledger import Ledger
from finesieve.methods.method import Method
from finesieve.scoring.batches import ScoringPass
from finesieve.scoring.head_start import FEWEST, HeadStart, Mean, default_examples, start_head

_END = object()


class Beginning:
    """Reads the stream's first examples ahead, fits the last layer to them, and gives them back.

    Args:
        method: a head start is made by default where it scores; the scorer is tried where it scores
            and does not begin with a scored pool.
        examples: how many the last layer is fitted to; None for the default.
        total: examples in the stream, if that is known.
        codec, scoring, ledger: of the sieve. tell: for events.
        wanted: whether there is a head start; the same for all ranks.
        undrawn: examples that were taken from the loader and not drawn yet.
        found: what came of the head start, once it was tried.
    """

    def __init__(
        self,
        method: Method,
        examples: int | None,
        total: int | None,
        codec: Codec,
        scoring: ScoringPass,
        ledger: Ledger,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        # The same for all ranks: whether there is a head start. How many examples each has, is not.
        self.wanted = method.scores if examples is None else examples > 0
        self._examples = default_examples(total) if examples is None else examples
        self._codec, self._scoring, self._ledger, self._tell = codec, scoring, ledger, tell
        self.found: HeadStart | None = None
        self.undrawn = 0
        # Where gates are closed from the start, the first pool is scored before any step.
        self._untried = method.scores and method.stages.first == 1  # whether it ever worked

    def read(self, iterator: Iterator[Any], mean: Mean) -> Iterator[Any]:
        """Fits the last layer to the first examples; gives their batches back, and all others.

        Args:
            mean: gives the mean of a list of numbers over ranks.
        """
        batches: list[Any] = []
        parts: list[Rows] = []
        with self._ledger.spending("data"):
            enough = self._examples >= FEWEST  # else nothing is read ahead, nor run
            while enough and sum(map(len, parts)) < self._examples:
                batch = next(iterator, _END)
                if batch is _END:
                    break
                batches.append(batch)
                parts.append(self._codec.unpack(batch, 0))
                self._codec.memory.see(parts[-1].columns)
        sizes = [len(rows) for rows in parts]
        found, before = None, sum(self._ledger.seconds.values())
        if some := [rows for rows in parts if len(rows)]:
            for rows in some:
                self._scoring.see(rows)
            with self._ledger.spending("decide"):
                rows = self._codec.concat(some)
                count = min(len(rows), self._examples)
                rows = self._codec.take(rows, np.arange(count))
            found = self._scoring.last_layer(rows)
            self._untried = self._untried and found is None
        with self._ledger.spending("score"):
            started = start_head(found, mean, self._examples)
        self.found = replace(started, seconds=sum(self._ledger.seconds.values()) - before)
        self._tell({"event": "head_start", **self.found.as_dict()})
        self.undrawn = sum(sizes)
        return chain(self._again(batches, sizes), iterator)

    def _again(self, batches: list[Any], sizes: list[int]) -> Iterator[Any]:
        """Yields the batches that were looked at, each let go as it is drawn."""
        batches.reverse()
        for size in sizes:
            self.undrawn -= size
            yield batches.pop()

    def try_out(self, rows: Rows) -> None:
        """Scores an example or two of the first batch, unless the scorer is known to work."""
        if self._untried:
            self._scoring.try_out(rows)
            self._untried = False

    def was_made(self, found: HeadStart | None) -> None:
        """Takes up a run that had its beginning; the scorer worked there.

        Args:
            found: what came of its head start.
        """
        self.found, self._untried = found, False
