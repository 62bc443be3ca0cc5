"""What decisions go by: tokens and seconds of each kind of work, and the costs that follow."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finesieve.costs.pace import Pace, again, launch
from finesieve.costs.watch import Step

# Before they are measured, over training an example with gates open, as it was on CPUs:
COST_RATIO = 0.3  # to score one
SURVIVOR = 1.2  # to train on one with gates closed, in smaller batches
_STEP = 1.1  # costs are followed in steps of a tenth
_UNDER_WAY = 256  # batches that a host may have taken and not trained on
_HALF = 32  # batches of each kind that a launch is measured by
_BELIEVED = 3  # times in a row that scoring must be found dearer than training
_SURE = 16  # batches after which it is clear how fast it goes with gates closed
_COLD = 1.5  # times what a batch should take now, at which what it took at first is not believed
_KEPT = (
    "forward",
    "launching",
    "score",
    "train",
    "drawn",
    "drawn_tokens",
    "opened",
    "closed",
    "scored",
)


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens trained on while the gates were open, and closed (those that wait included); tokens
    scored; and how many the whole stream has, as it looks now (0 if its length is unknown)."""

    open: int = 0
    closed: int = 0
    scored: int = 0
    whole: float = 0.0

    def spent(self, score: float, train: float, of: float | None = None) -> float:
        """Returns the share of plain training's cost that this work took.

        Args:
            score: cost to score a token, over plain training's cost of one.
            train: cost to train on a token with gates closed, likewise.
            of: the tokens of plain training; those of the whole stream by default.
        """
        done = self.open + train * self.closed + score * self.scored
        return done / max(1.0, self.whole if of is None else of)


def followed(value: float, found: float | None, step: float) -> float:
    """Rounds the measured cost `found` to a power of `step`.

    Returns `value` unless the measured cost is further than one step from it, so that the noise of
    a clock does not change decisions; also where nothing is measured yet (None).
    """
    if found is None or abs(math.log(found / value)) <= math.log(step):
        return value
    return float(step ** round(math.log(found, step)))


class Meter:
    """Counts the work that decisions depend on, and measures what a token of it costs.

    The ledger counts for people; nothing that it holds is read by a decision, and nothing that is
    decided goes by anything but this meter and the window.

    Args:
        score, train: costs to score a token, and to train on one while gates are closed, over plain
            training's: as measured, followed in steps. Decisions use these, and their ratio.
        drawn: examples drawn.
        drawn_tokens: their tokens.
        opened, closed: tokens handed out for training in batches that passed open gates, and
            closed.
        scored: tokens scored.
        launching: share of a plain step that its launch takes, 0 as long as it is unknown.
        forward: tokens of a scoring forward, as large as they are made for a whole pool; 0 if
            unknown.
        paces: seconds of a batch: trained on while the gates are `open` or `closed`, or to `score`.
    """

    def __init__(self) -> None:
        self.score, self.train = COST_RATIO, SURVIVOR
        self.drawn = self.drawn_tokens = 0
        self.opened = self.closed = self.scored = 0
        self.forward = self.launching = 0.0
        self.paces = {name: Pace() for name in ("open", "closed", "score")}
        self._under_way: deque[Step] = deque(maxlen=_UNDER_WAY)
        self._launch: float | None = None
        self._again = again(0)  # batches trained on from which on it is measured anew
        self._dear = 0  # times in a row that scoring was found to be dearer than training
        self._seen = 0  # scoring forwards that were timed by then
        self._then: tuple[float, float] | None = None  # seconds a token, when gates had closed

    @property
    def ratio(self) -> float:
        """Returns seconds to score a token over seconds to train on one of a survivor."""
        return self.score / self.train

    @property
    def unscored(self) -> bool:
        """Whether no scoring forward was timed yet."""
        return self.paces["score"].count == 0

    def draw(self, examples: int, tokens: int) -> None:
        """Count what was taken from the loader."""
        self.drawn += examples
        self.drawn_tokens += tokens

    def hand_out(self, tokens: int, opened: bool) -> None:
        """Counts a batch that goes to the training step.

        Args:
            opened: whether it passed open gates.
        """
        if opened:
            self.opened += tokens
        else:
            self.closed += tokens

    # ---- what was timed

    def begin(self, opened: bool, examples: int, tokens: int, longest: int) -> None:
        """Note that a batch goes to the training step; its tokens are without padding."""
        pace = self.paces["open" if opened else "closed"]
        self._under_way.append(Step.of(pace, examples, tokens, longest))

    def trained(self, told: int | None) -> Step | None:
        """Return what was trained on since it was asked last: a host may read batches ahead, or
        take many and train on them after the last.

        Args:
            told: batches whose losses came back since; None where none ever did. A host that has
                not told any after many batches never does, and is taken to train on each as it
                comes.
        """
        waiting = len(self._under_way)
        if told is None:
            told = int(waiting >= _UNDER_WAY // 4)
        count = min(told, waiting)
        if count == 0:
            return self._under_way[0]._replace(batches=0) if waiting else None
        if count == 1:
            return self._under_way.popleft()
        steps = [self._under_way.popleft() for _ in range(count)]
        tokens = sum(step.tokens for step in steps)
        padded = sum(step.padded for step in steps)
        return steps[-1]._replace(tokens=tokens, padded=padded, batches=count)

    def relative(self, name: str) -> float | None:
        """Return what a token costs as measured, over plain training's; None if unknown.

        Args:
            name: "closed" to train on one while gates are closed, or "score". Where gates were
                closed from the start, survivors stand in for plain training.
        """
        closed, plain = self.paces["closed"].line(), self._plain()
        if name == "closed":
            return None if closed is None or plain is None else closed.per_token() / plain
        line = self.paces["score"].line(self.overhead)
        if line is None or plain is None:
            return None
        return line.per_token(self.forward or line.tokens) / plain

    def _plain(self) -> float | None:
        """Return the seconds of a token in plain training, as they would be now; None if unknown.

        Where gates closed before the device was warm, while kernels were loaded and chosen, what
        was measured then is too much by far. A batch is trained on in the same way while gates are
        closed, so those batches tell what one of the plain size would take.
        """
        opened, pace = self.paces["open"].line(self.launch), self.paces["closed"]
        if opened is None:
            return pace.per_token
        found = opened.per_token() * self._drift()
        closed = pace.line(self.launch)
        if closed is not None and len(pace.seen) >= _SURE:
            now = closed.per_token(opened.tokens)
            if now * _COLD < found:
                return now
        return found

    @property
    def launch(self) -> float | None:
        """Padded tokens that take as long to train on as a batch takes to launch, if known."""
        opened, closed = self.paces["open"], self.paces["closed"]
        if (count := opened.count + closed.count) >= self._again:
            self._again = again(count)
            found = launch(opened.seen[-_HALF:] + closed.seen[-_HALF:])
            self._launch = self._launch if found is None else found
        return self._launch

    @property
    def overhead(self) -> float | None:
        """Padded tokens that take as long to score as the launch of a forward; as in training where
        that was not measured, None if nothing was."""
        found = self.paces["score"].launch()
        return self.launch if found is None else found

    def smaller(self, share: float) -> float:
        """Return what a token costs in batches of a share of the plain ones' size, over what it
        costs in those: 1 where compute is all, 1 / share where launches are."""
        return 1.0 - self.launching + self.launching / share

    def _launching(self) -> float:
        """Return the share of a plain step that its launch takes."""
        line, worth = self.paces["open"].line(self.launch), self.launch
        return self.launching if line is None or worth is None else line.launching

    def _guess(self) -> float:
        """Returns what scoring should cost before it is measured: as on CPUs by compute, and by the
        number of launches, since many examples go into one forward."""
        line = self.paces["open"].line(self.launch)
        if line is None or self.forward <= line.tokens:
            return COST_RATIO
        return COST_RATIO * line.per_token(self.forward) / line.per_token()

    def _drift(self) -> float:
        """Returns how much slower everything became since the gates were closed: plain training,
        which is not timed meanwhile, did so too. It is what scoring and training have in common."""
        if self._then is None:
            return 1.0
        now = [self.paces[name].per_token for name in ("score", "closed")]
        slower = [new / old for new, old in zip(now, self._then, strict=True) if new is not None]
        if len(slower) == 2 and min(slower) > 1.0:
            return min(slower)
        return max(slower) if len(slower) == 2 and max(slower) < 1.0 else 1.0

    def moved(self, opened: bool) -> None:
        """Forgets what is measured anew once gates were opened, or closed."""
        self._then = None
        for name in ("score",) if opened else ("score", "closed"):
            self.paces[name].forget()

    def looking(self, tokens: int) -> float:
        """Return what timing a scoring forward over so many tokens costs, in tokens of plain
        training. It is made twice, since the first may have kernels to set up."""
        worth, usual = self.overhead or 0.0, self.forward or float(tokens)
        alone = usual / tokens if worth == math.inf else (worth / tokens + 1) / (worth / usual + 1)
        price = self.score * alone
        # A price that says that scoring is dearer than training is not to keep anybody from asking.
        return 2.0 * tokens * (price if self.paces["score"].seen else min(1.0, price))

    def follow(self, opened: bool = False) -> None:
        """Let `score` and `train` follow what was measured so far.

        Args:
            opened: whether gates are open, so that plain training is being timed.
        """
        pair = self.paces["score"], self.paces["closed"]
        if opened:
            self._then = None
        elif self._then is None and all(len(pace.seen) >= _SURE for pace in pair):
            then = [pace.per_token for pace in pair]
            self._then = (then[0], then[1]) if then[0] and then[1] else None
        if not opened and (line := self.paces["score"].line()):
            self.forward = line.tokens
        self.launching = self._launching()
        found, seen = self.relative("score"), self.paces["score"].count
        if found is None:
            found = self._guess() if self.unscored else None
        elif found > 1.0 and seen > self._seen:
            # Not to be believed at once: first launches, or another program on the device.
            self._dear += 1
        elif found <= 1.0:
            self._dear = 0
        self._seen = seen
        if found is None or found <= 1.0 or self._dear >= _BELIEVED:
            self.score = followed(self.score, found, _STEP)
        self.train = followed(self.train, self.relative("closed"), _STEP)

    def work(self, total: int | None, opened: int = 0, closed: int = 0) -> Work:
        """Return the work done so far.

        Args:
            total: examples in the whole stream, if it is known.
            opened, closed: tokens that passed the gates and wait to be handed out.
        """
        whole = self.drawn_tokens / max(1, self.drawn) * (total or 0)
        return Work(self.opened + opened, self.closed + closed, self.scored, whole)

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        return {
            **{name: getattr(self, name) for name in _KEPT},
            "paces": {name: pace.state_dict() for name, pace in self.paces.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        for name in _KEPT:
            setattr(self, name, state[name])
        for name, pace in self.paces.items():
            pace.load_state_dict(state["paces"][name])
