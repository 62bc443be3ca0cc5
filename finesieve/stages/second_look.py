"""Gates that were opened because skipping did not pay are looked at again: prices may be wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_FIRST = 4  # pools that pass before the first look; twice as many before each further one
_SHARE = 0.01  # of the time since the last look that the next one may take


class SecondLook:
    """Says when scoring is to be timed again, though gates are open and no score is needed.

    A price may have been wrong: taken while kernels were first launched, say, or while another
    program was on the same device. With gates open nothing would ever tell.
    """

    def __init__(self) -> None:
        self._since: int | None = None  # tokens drawn by the last look; None: gates are shut
        self._wait = _FIRST

    def opened(self, drawn: int) -> None:
        """Notes that gates were opened when so many tokens had been drawn."""
        self._since, self._wait = drawn, _FIRST

    def closed(self) -> None:
        """Notes that gates are closed: scoring is timed with every pool then."""
        self._since = None

    def due(self, drawn: int, pool: float, cost: Callable[[], float]) -> bool:
        """Return whether it is time for a look.

        Args:
            drawn: tokens drawn so far.
            pool: tokens of a pool.
            cost: asked, where it matters, what a look costs in tokens of plain training.
        """
        if self._since is None or (gone := drawn - self._since) < self._wait * pool:
            return False
        return cost() <= _SHARE * gone

    def looked(self, drawn: int) -> None:
        """Notes that scoring was timed when so many tokens had been drawn; the next look comes
        after twice as many."""
        self._since, self._wait = drawn, 2 * self._wait

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {"since": self._since, "wait": self._wait}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self._since, self._wait = state["since"], state["wait"]
