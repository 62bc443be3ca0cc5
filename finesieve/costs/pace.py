"""What a batch takes: a + b x tokens seconds, by launches and by compute."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_SETTLING, _OUTLIER, _RECENT, _SHAPES = 4, 4.0, 64, 4096
_LEVEL = 32  # batches that say how fast it goes now; all the recent ones say what a launch is worth
_FEW = 8  # batches that are enough to leave out others
_SIGMAS = 1.65  # one-sided, 95 %
_SPREAD = 0.1  # sizes of two batches must differ by so much of the usual one to tell a slope

Array = npt.NDArray[np.float64]


class Seen(NamedTuple):
    """What batches took: seconds, tokens, tokens with padding, and how many batches they were;
    `new` says whether the last was of a shape that was not met before."""

    seconds: float
    tokens: float
    padded: float
    batches: int
    new: bool


class Line(NamedTuple):
    """A batch takes `a + b x tokens` seconds, and has `tokens` of them usually: without padding,
    which goes with them."""

    a: float
    b: float
    tokens: float

    def per_token(self, tokens: float | None = None) -> float:
        """Return the seconds of a token in batches of so many; in the usual ones by default."""
        return self.a / (tokens or self.tokens) + self.b

    @property
    def launching(self) -> float:
        """The share of the usual batch that its launch takes."""
        return self.a / (self.a + self.b * self.tokens)


def again(count: int) -> int:
    """Return with which batch what a launch is worth is measured anew, after so many: it costs a
    tenth of a millisecond. Often at first, while every batch tells more; later once the last ones
    are all others."""
    return count + (_FEW if count < 2 * _RECENT else _RECENT)


def quantile(values: Array, share: float = 0.5) -> float:
    """Return the value below which this share of the values lies, linear in between; the median by
    default. There is one value at least. `numpy.quantile` takes ten times as long for a few."""
    place = share * (len(values) - 1)
    low = int(place)
    two = np.partition(values, (low, min(low + 1, len(values) - 1)))[low : low + 2]
    return float(two[0] + (two[-1] - two[0]) * (place - low))


@cache
def _pairs(n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the places of all pairs of n, first and second, int64 each."""
    return np.triu_indices(n, 1)


def launch(seen: Sequence[Seen]) -> float | None:
    """Return how many padded tokens take as long as the launch of their batch, a / b.

    The slope is the median over all pairs of batches whose sizes differ (Theil 1950); b is the
    upper end of its interval (Sen 1968), so that with few batches or much noise no launch is seen
    where there may be none. a is the median of what is left. Infinite where a batch takes as long
    whatever its size. None where sizes are too much alike to tell.
    """
    if len(seen) < _FEW:
        return None
    x = np.array([one.padded / one.batches for one in seen])
    y = np.array([one.seconds / one.batches for one in seen])
    i, j = _pairs(len(x))
    apart = x[j] - x[i]
    far = np.abs(apart) > _SPREAD * quantile(x)
    if np.count_nonzero(far) < len(far) / 8:  # one odd batch would tell a slope of its own noise
        return None
    n = len(x)
    width = _SIGMAS * math.sqrt(n * (n - 1) * (2 * n + 5) / 18) / (n * (n - 1))
    b = quantile((y[j] - y[i])[far] / apart[far], min(1.0, 0.5 + width))
    a = quantile(y - b * x)
    if a <= 0.0:
        return 0.0
    return math.inf if b <= 0.0 else a / b


class Pace:
    """Seconds and tokens of one kind of work, batch by batch: the last ones.

    Left out are the first batches (memory is allocated, kernels are chosen and compiled), those of
    a shape that was not met before, if there are enough others, and those that took four times what
    they should: the loop around them did something else, an evaluation say. Where what is left out
    would be nearly all of the time, nothing is.

    Args:
        count: batches that were added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._unsettled = _SETTLING
        self._recent: deque[Seen] = deque(maxlen=_RECENT)
        self._shapes: set[tuple[int, int]] = set()
        self._launch: float | None = None  # as last known
        self._again = again(0)  # batches from which on it is measured anew
        self._lines: dict[float | None, Line | None] = {}  # by what a launch is worth
        self._made_for = 0, 0  # batches added, and kept, when they were made

    def add(
        self,
        seconds: float,
        tokens: int,
        batches: int = 1,
        padded: int | None = None,
        shape: tuple[int, int] | None = None,
    ) -> None:
        """Take in what batches with so many tokens in all took.

        Args:
            padded: with padding; as many by default.
            shape: of the last of them, to know its first launch by.
        """
        if tokens <= 0 or batches <= 0:
            return
        self.count += batches
        new = shape is not None and shape not in self._shapes
        if shape is not None and len(self._shapes) < _SHAPES:
            self._shapes.add(shape)
        if self._unsettled > 0:
            self._unsettled -= batches
        else:
            one = Seen(seconds, float(tokens), float(padded or tokens), batches, new)
            self._recent.append(one)

    def forget(self) -> None:
        """Forgets how fast it goes, to measure it anew; what a launch is worth stays as it was."""
        self.launch()
        self._recent.clear()

    @property
    def seen(self) -> list[Seen]:
        """The last batches, without first launches where there are enough others."""
        known = [one for one in self._recent if not one.new]
        return known if len(known) >= _FEW else list(self._recent)

    def launch(self) -> float | None:
        """Return how many padded tokens take as long as a launch, as last known; None if never."""
        if self.count >= self._again:
            self._again = again(self.count)
            found = launch(self.seen)
            self._launch = self._launch if found is None else found
        return self._launch

    def line(self, otherwise: float | None = None) -> Line | None:
        """Return what a batch takes now; None before there is a measurement.

        Args:
            otherwise: what a launch is worth, in padded tokens, where these batches do not tell.
        """
        found = self.launch()
        worth = otherwise if found is None else found
        made_for = self.count, len(self._recent)
        if self._made_for != made_for:
            self._made_for, self._lines = made_for, {}
        if worth not in self._lines:
            self._lines[worth] = self._fitted(worth)
        return self._lines[worth]

    def _fitted(self, worth: float | None) -> Line | None:
        """Return the line that the last batches are on where a launch is worth so much."""
        seen, every = self.seen[-_LEVEL:], list(self._recent)[-_LEVEL:]
        if not seen:
            return None
        took, _, padding, batches, _ = zip(*seen, strict=True)
        y, padded, n = np.array(took), np.array(padding), np.array(batches, dtype=np.float64)
        # In units of a padded token; where a launch is all, the size of a batch is nothing.
        size = n if worth == math.inf else (worth or 0.0) * n + padded
        each = y / size
        usual = each <= _OUTLIER * quantile(each)
        if not usual.all() and y[usual].sum() > 0.02 * y.sum():
            y, size = y[usual], size[usual]
        unit = float(y.sum() / size.sum())
        if unit <= 0.0:
            return None
        # Shapes that are met first are of other lengths than those that are met often.
        _, tokens, width, count, _ = map(sum, zip(*every, strict=True))
        if worth == math.inf:
            return Line(unit, 0.0, tokens / count)
        return Line((worth or 0.0) * unit, unit * width / tokens, tokens / count)

    @property
    def per_token(self) -> float | None:
        """Seconds that a token takes in the usual batches; None before there is a measurement."""
        line = self.line()
        return None if line is None else line.per_token()

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            "count": self.count,
            "recent": [list(one) for one in self._recent],
            "launch": self._launch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.count = state["count"]
        self._again = self.count + again(0)
        self._launch = state["launch"]
        self._recent = deque((Seen(*one) for one in state["recent"]), maxlen=_RECENT)
        # Another process launches everything for a first time again.
        self._shapes, self._unsettled = set(), _SETTLING
