"""Survivors waiting to become full batches of like length."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows, rows_from_state, rows_state
from finesieve.gates.dice import Dice
from finesieve.gates.protocol import State

GROUP = 16  # batches that are cut at a time, where nobody says


class Holding:
    """Gathers `group` batches of survivors, sorts them by length, cuts, shuffles the batches.

    Every survivor gets a span: its equal part of the examples drawn that its pool stands for, so
    that the spans of what came out add up to what went in, whatever was dropped.

    Args:
        codec: puts rows together.
        group: batches that are cut at a time; may be changed at any time.
        seed: of the order of batches.
        opened: whether what is added now passed open gates. Batches remember it: they may go out
            once gates have moved. Release everything before it changes.
    """

    def __init__(self, codec: Codec, group: int, seed: int, opened: bool) -> None:
        self.opened = opened
        self._codec, self.group = codec, group
        self._dice = Dice(seed, "order of batches")
        self._held: list[Rows] = []
        # Whether they passed open gates, and the examples drawn that they stand for.
        self._ready: deque[tuple[Rows, bool, float]] = deque()
        self._count = 0  # examples in `_ready`
        self._tokens = {False: 0, True: 0}  # of all held, by whether they passed open gates
        self._idle = 0.0  # examples drawn of which nothing survived yet

    def for_rank(self, rank: int) -> None:
        """Draw the order of batches with this rank's own dice (see `Dice.for_rank`)."""
        self._dice.for_rank(rank)

    def __len__(self) -> int:
        """Returns how many examples are held, in batches or not yet."""
        return self._count + sum(map(len, self._held))

    def _all(self) -> Iterator[Rows]:
        yield from (rows for rows, _, _ in self._ready)
        yield from self._held

    def tokens(self, opened: bool) -> int:
        """Returns how many tokens are held that passed open gates, or closed ones; in batches or
        not yet."""
        return self._tokens[opened]

    def _line_up(self, rows: Rows, opened: bool) -> None:
        """Make this the last of the batches that are ready."""
        self._ready.append((rows, opened, float(rows.spans.sum())))
        self._count += len(rows)

    @property
    def ready(self) -> bool:
        """Whether a batch is ready."""
        return bool(self._ready)

    def next(self) -> tuple[Rows, bool, float]:
        """Takes out the next batch; returns it, whether it passed open gates, and how many examples
        drawn it stands for."""
        rows, opened, span = self._ready.popleft()
        self._count -= len(rows)
        self._tokens[opened] -= rows.tokens
        return rows, opened, span

    def each(self, change: Callable[[Rows], None]) -> None:
        """Calls a function with all rows that are held, to change them in place."""
        for rows in self._all():
            change(rows)

    def next_span(self) -> float:
        """Returns how many examples drawn the next batch stands for; 0 if there is none."""
        return self._ready[0][2] if self._ready else 0.0

    def pass_through(self, rows: Rows) -> None:
        """Lines up a batch of the loader's as it is."""
        self._line_up(rows, self.opened)
        self._tokens[self.opened] += rows.tokens

    def add(self, survivors: Rows, drawn: int, batch_size: int) -> None:
        """Holds the survivors of `drawn` examples, and cuts batches once there are enough."""
        self._idle += drawn
        if len(survivors):
            survivors.spans = np.full(len(survivors), self._idle / len(survivors))
            self._idle = 0.0
            self._held.append(survivors)
            self._tokens[self.opened] += survivors.tokens
            self.release(batch_size)

    def release(self, batch_size: int, everything: bool = False) -> None:
        """Cuts held survivors into batches, group by group, as long as there is a full group.

        A group is sorted by length and cut, and its batches are lined up in random order.

        Args:
            batch_size: survivors in a batch.
            everything: whether to cut the rest, too, which makes no full group.
        """
        enough = self.group * batch_size
        while (count := sum(map(len, self._held))) >= enough or (everything and count):
            rows = self._codec.concat(self._held)
            take = self._codec.chooser(rows)
            now, rest = np.arange(min(enough, count)), np.arange(min(enough, count), count)
            self._held = [take(rest)] if len(rest) else []
            order = now[np.argsort(rows.lengths[now], kind="stable")]
            cuts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            for i in self._dice.permutation(len(cuts)):
                self._line_up(take(cuts[i]), self.opened)

    def take_idle(self) -> float:
        """Returns how many examples drawn at the end of a pass have no survivor; asked again, 0."""
        idle, self._idle = self._idle, 0.0
        return idle

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "dice": self._dice.state_dict(),
            "held": [rows_state(r) for r in self._held],
            "ready": [rows_state(r) for r, _, _ in self._ready],
            "passed": [opened for _, opened, _ in self._ready],
            "opened": self.opened,
            "idle": self._idle,
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Takes up what `state_dict` returned."""
        self._dice.load_state_dict(state["dice"])
        self._held = [rows_from_state(s, device) for s in state["held"]]
        self._ready, self._count, self._tokens = deque(), 0, {False: 0, True: 0}
        self.opened = state["opened"]
        for saved, opened in zip(state["ready"], state["passed"], strict=True):
            self._line_up(rows_from_state(saved, device), opened)
            self._tokens[opened] += self._ready[-1][0].tokens
        for rows in self._held:
            self._tokens[self.opened] += rows.tokens
        self._idle = state["idle"]
