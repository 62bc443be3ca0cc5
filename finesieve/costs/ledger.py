"""The books: exact counts, measured seconds, derived FLOPs; three things never mixed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from finesieve.costs.watch import Watch

KINDS = ("decide", "score", "train", "data")


@dataclass
class Counts:
    """How many went through each station of the stream.

    Args:
        drawn: taken from the loader.
        decided: put before a closed forward gate.
        scored: forwards without gradient.
        dropped: by either gate.
        bad: kept out for a loss that was not finite.
        yielded: handed to the user's step.
    """

    drawn: int = 0
    decided: int = 0
    scored: int = 0
    dropped: int = 0
    bad: int = 0
    yielded: int = 0


@dataclass
class Ledger:
    """Examples, tokens and seconds, for people: no decision reads them (see `costs.meter`).

    Args:
        watch: measures the seconds.
    """

    watch: Watch = field(default_factory=lambda: Watch(KINDS, None))
    examples: Counts = field(default_factory=Counts)
    tokens: Counts = field(default_factory=Counts)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each kind of work so far: `decide` (both gates and the predictor, deciding and
        learning, and the handling of rows), `score`, `train` (from a batch's handing over to the
        next request), `data` (waiting for the loader).

        Waits for a device that runs behind the program: ask once in a while, not at every step.
        """
        self.watch.read(wait=True)
        return self.watch.seconds

    def spending(self, on: str) -> AbstractContextManager[None]:
        """Books the time that passes inside on a kind of work, and what follows as before."""
        return self.watch.spending(on)

    def pause(self) -> None:
        """Books nothing until the next batch is asked for: the host evaluates, saves or logs."""
        self.watch.pause()

    def count(self, station: str, examples: int, tokens: int) -> None:
        """Adds examples and tokens to a station.

        Args:
            station: a field of `Counts`.
        """
        setattr(self.examples, station, getattr(self.examples, station) + examples)
        setattr(self.tokens, station, getattr(self.tokens, station) + tokens)

    def flops(self, parameters: int, learn: int | None = None) -> dict[str, float]:
        """Returns the floating-point operations of each kind of work, derived: 2 per parameter and
        token forward, 2 for the gradient that is passed on, and 2 more per parameter that learns
        (Kaplan et al. 2020, arXiv 2001.08361, table 1).

        Layers frozen below all that learns pass no gradient on, which is not taken off. Attention's
        own products are left out.

        Args:
            parameters: those that take part in matrix products (without the embedding tables).
            learn: those of them that are trained; all by default.
        """
        learn = parameters if learn is None else learn
        return {
            "score": 2.0 * parameters * self.tokens.scored,
            "train": (4.0 * parameters + 2.0 * learn) * self.tokens.yielded,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "examples": asdict(self.examples),
            "tokens": asdict(self.tokens),
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.examples = Counts(**state["examples"])
        self.tokens = Counts(**state["tokens"])
        self.watch.seconds.update(state["seconds"])
