"""A clock of training alone, from which a host takes out what it does besides."""

from __future__ import annotations

from collections.abc import Callable


class TrainingClock:
    """Seconds without those in which the host evaluated, saved or logged.

    The host says `pause()` before it does so and `go_on()` afterwards; what lies between is taken
    out of all later readings, and so of the books, the prices and the host's own times.

    seconds: the clock that is read; one that waits for the device where that runs ahead.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        self._out = 0.0  # seconds taken out so far
        self._since: float | None = None  # when the pause under way began

    def __call__(self) -> float:
        """Seconds of training so far, from a point that means nothing."""
        return self.seconds() - self._out

    def pause(self) -> None:
        """Training stands still from here on; said twice, the later one counts."""
        self._since = self.seconds()

    def go_on(self) -> None:
        """Training goes on; without a pause before it nothing is taken out."""
        if self._since is not None:
            self._out += self.seconds() - self._since
            self._since = None
