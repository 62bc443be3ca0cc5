"""The live line of a run: stage, realised rates, time saved so far, time left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from finesieve.gates.simple import Open
from finesieve.methods.method import Method
from finesieve.sieve.sieve import Sieve
from finesieve.stages.automatic import Automatic
from finesieve.stages.policy import Stages, View


def duration(seconds: float) -> str:
    """Returns a time as "8 s", "3:07 min" or "2:05 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d} h"


def snapshot(sieve: Sieve, total: int, elapsed: float) -> dict[str, Any]:
    """Returns where the run stands; also the `progress` event of run.jsonl.

    `stage` is the one in which was decided on what is trained on now. The sieve may be further: it
    draws a pool, or several, ahead of training.
    `saved` are the seconds that training on everything would have taken beyond `elapsed`, by
    `sieve_saved` (`Sieve.figures`); None before the first step.
    """
    examples, progress, window = sieve.ledger.examples, sieve.progress, sieve.window
    saved = None
    if examples.yielded:
        share = sieve.figures()["sieve_saved"]
        saved = elapsed * share / max(0.01, 1 - share)
    consumed = round(progress * total)
    stage = [m["stage"] for m in sieve.moves if m["from_example"] <= consumed][-1]
    return {
        "stage": stage,
        "progress": progress,
        "mean_loss": rounded(window.mean_loss()),
        "concentration": rounded(window.concentration()),
        "auc": rounded(window.auc()),
        "calibration": rounded(window.calibration()),
        "audit": rounded(window.audit()),
        "threshold": None if sieve.threshold is None else rounded(sieve.threshold),
        "drawn": examples.drawn,
        "consumed": consumed,
        "random": stage == 1 and not isinstance(sieve.method.opening, Open),
        "scored": examples.scored,
        "trained": examples.yielded,
        "elapsed": elapsed,
        "saved": saved,
        "left": elapsed * (1 - progress) / progress if progress > 0 else None,
    }


def rounded(value: float) -> float | None:
    """Returns a number for JSON, of four digits; None if it is not finite."""
    return round(value, 4) if math.isfinite(value) else None


def line(now: dict[str, Any]) -> str:
    """Return the state of a run for a person, of what `snapshot` returned."""
    # Shares of what was consumed: what waits in pools was drawn, but is not decided on yet.
    consumed, drawn = max(1, now["consumed"]), max(1, now["drawn"])
    random = " (random subset)" if now["random"] else ""
    # Plain training so far: what was scored is for the fitted head, and would only puzzle.
    filtered = now["stage"] > 1 or now["trained"] < 0.9 * consumed
    parts = [
        f"{now['progress']:4.0%}  stage {now['stage']}{random}",
        f"trained {now['trained'] / consumed:.0%}",
        *([f"scored {now['scored'] / drawn:.0%}"] if filtered else []),
        duration(now["elapsed"]),
    ]
    if now["saved"] is not None and filtered:
        word = "saved" if now["saved"] >= 0 else "lost"
        parts.append(f"{word} {duration(abs(now['saved']))}")
    if now["left"] is not None:
        parts.append(f"{duration(now['left'])} left")
    return "  ·  ".join(parts)


def told_of_head(event: Mapping[str, Any]) -> str:
    """Returns a line for the terminal about the head start."""
    if not event["fitted"]:
        return f"the head is left as it is: {event['reason']}"
    how = "fitted to"
    if event["strength"] is None:
        how = "set to predict how frequent labels are in"
    return (
        f"head {how} {event['examples']} examples: loss on left-out examples "
        f"{event['before']:.3f} -> {event['after']:.3f}"
    )


def why_open(sieve: Sieve, stages: Stages) -> str:
    """Return a sentence that says why no gate closed before the stream ended.

    The price in it is the one that the policy itself would have computed at the end.
    """
    if not isinstance(stages, Automatic):
        return "the method closed no gate before the stream ended"
    revealed = sieve.window.revealed
    if revealed < stages.earliest:
        return (
            f"no gate closes in the first {stages.earliest} examples, and the stream had {revealed}"
        )
    costs, limits = sieve.costs, sieve.method.limits
    view = View(1, 1.0, revealed, sieve.passes, sieve.window, costs, sieve.work(), limits)
    _, concentration, *prices = stages.evidence(view)
    return (
        f"skipping would have cost {min(prices):.2f} of plain training for the same "
        f"information at the end, and gates close below {1 - stages.margin:.2f} "
        f"(concentration of sizes {concentration:.2f}: 1 is all alike)"
    )


def told_of_end(sieve: Sieve, method: Method) -> list[str]:
    """Return what to say of a run whose gates never closed: that it saved nothing, and why; or that
    a budget was spent on a random subset."""
    never = len(sieve.moves) == 1 and sieve.stage == 1 and method.scores
    if not never:
        return []
    if isinstance(method.opening, Open):
        why = why_open(sieve, method.stages)
        return [f"no time was saved: trained on everything, because {why}"]
    examples = sieve.ledger.examples
    return [
        f"the gates stayed open: the budget was spent on a random "
        f"{examples.yielded / max(1, examples.drawn):.0%} of the examples, so this run is a random "
        "subset (choosing was not found to be the better use of it)"
    ]


class Live:
    """Rewrites one line on a terminal; elsewhere prints a line each tenth of the run."""

    def __init__(self, label: str, out: TextIO | None = None, quiet: bool = False) -> None:
        self._out = out or sys.stderr
        self._label, self._quiet = label, quiet
        self._terminal = self._out.isatty()
        self._next_time, self._next_tenth, self._open = 0.0, 1, False

    def show(self, sieve: Sieve, total: int, elapsed: float) -> None:
        """Shows how far the run is, now and then."""
        if self._quiet:
            return
        if self._terminal:
            if time.monotonic() < self._next_time:
                return
            self._next_time = time.monotonic() + 0.5
            text = f"{self._label}  {line(snapshot(sieve, total, elapsed))}"
            self._out.write(f"\r\x1b[K{text}")
            self._open = True
        elif sieve.progress >= self._next_tenth / 10:
            self._next_tenth = int(sieve.progress * 10) + 1
            self._out.write(f"{self._label}  {line(snapshot(sieve, total, elapsed))}\n")
        self._out.flush()

    def say(self, text: str) -> None:
        """Writes a line of its own."""
        if self._quiet:
            return
        self._out.write(("\r\x1b[K" if self._open else "") + f"{self._label}  {text}\n")
        self._out.flush()
        self._open = False

    def close(self) -> None:
        """Ends the line."""
        if self._open:
            self._out.write("\n")
            self._out.flush()
            self._open = False
