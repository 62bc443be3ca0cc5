"""The verdict on a comparison, in words: the same for terminal, Markdown, page and benchmarks.

First against full training, then against a random subset of the same time, then what to beware of.
It can be "no gain".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from finesieve.cli.comparing.equal_time import CLOSE
from finesieve.cli.comparing.groups import (
    IDLE,
    RIVAL,
    SAME,
    grouped,
    idle,
    mean,
    off_target,
    times,
)
from finesieve.cli.comparing.statistics import Difference, compare_runs, overall
from finesieve.cli.measures import LOSS, Measure
from finesieve.cli.results import Record
from finesieve.cli.tasks.registry import FIGURES, of_result, of_runs

NEAR = 0.05  # by how much the seconds of two methods may differ for a verdict
SEEDS = 3  # fewer prove little
MANY = 10  # sets of one seed each that together tell something
BOOKS = 0.1  # how far `sieve_saved` may be from what was saved
ALL = 0.995  # a share of the examples that is shown as 100 %
BUSY = 0.1  # how far a ratio of seconds may be from the ratio of processor seconds

Pairs = Mapping[str, tuple[Sequence[Record], Sequence[Record]]]  # set -> runs of two methods


def verdict(records: Sequence[Record], ours: str = "finesieve", rival: str = RIVAL) -> str:
    """Return in words what the claim sets say of a method, and what to beware of.

    Paragraphs stand apart by an empty line: against full training, against the rival, cautions;
    each is left out where no set has both methods.
    """
    full, equal = _pairs(records, ours, "full"), _pairs(records, ours, rival)
    told = [against_full(full, ours), against_rival(equal, ours, rival)]
    if not any(told):
        return f"No set has {ours} and full training or {rival}."
    told += [f"Caution: {text}" for text in cautions(records, full, equal, ours, rival)]
    return "\n\n".join(text for text in told if text)


def _pairs(records: Sequence[Record], ours: str, other: str) -> Pairs:
    """Return the runs of both methods with seeds in common, of each set that has such."""
    out = {}
    for name, groups in grouped(records).items():
        mine, theirs = ([*groups.get(method, ())] for method in (ours, other))
        both = {r["seed"] for r in mine} & {r["seed"] for r in theirs}
        pair = ([r for r in mine if r["seed"] in both], [r for r in theirs if r["seed"] in both])
        if ours != other and compare_runs(*pair) is not None:
            out[name] = pair
    return out


# ---- against full training


def against_full(pairs: Pairs, ours: str) -> str:
    """Return in words time, accuracy and loss against full training; "" without a pair."""
    if not pairs:
        return ""
    if len(pairs) > 1:
        return _over_sets(pairs, ours)
    ((mine, theirs),) = pairs.values()
    start = f"{ours} against full training: "
    quicker = 1.0 - times(mine, theirs)
    seconds = " s instead of ".join(f"{mean(r, 'seconds', 'total'):.1f}" for r in (mine, theirs))
    if idle(mine, theirs) == SAME:
        start += f"{SAME}. Its gates never closed: everything was trained on, no time was saved"
        return f"{start} ({seconds} s{': noise of the clock' if quicker > 0 else ''})."
    amount = f"{abs(quicker):.0%} {'less' if quicker >= 0 else 'more'} time ({seconds} s)"
    start += amount if round(abs(quicker), 2) else f"the same time ({seconds} s)"
    runs = [*mine, *theirs]
    first, *others = of_runs(runs).told
    told = [f"{start}; {first.head} {_change(theirs, mine, first)}"]
    for one in others:
        if all(one.key in r["eval"] for r in runs):
            told.append(f"{one.head} {_change(theirs, mine, one)}")
    told.append(f"held-out loss {_change(theirs, mine, LOSS)}.")
    return ", ".join(told)


def _change(before: Sequence[Record], after: Sequence[Record], what: Measure) -> str:
    """Return the means of a figure before and after, their difference and its interval."""
    kind = {of_runs(after).paired: "right", LOSS: "loss"}.get(what)
    found = compare_runs(after, before, kind) if kind else _by_seed(after, before, what.key)
    known = found is not None and math.isfinite(found.high)
    old, new = (mean(runs, "eval", what.key) for runs in (before, after))
    return what.changed(old, new, (found.low, found.high) if found and known else None)


def _by_seed(ours: Sequence[Record], rival: Sequence[Record], what: str) -> Difference | None:
    """Return the mean difference of a figure over seeds and its interval, of the seeds alone."""
    theirs = {r["seed"]: r["eval"][what] for r in rival}
    found = [r["eval"][what] - theirs[r["seed"]] for r in ours if r["seed"] in theirs]
    return overall(found) if len(found) > 1 else None


def _over_sets(pairs: Pairs, ours: str) -> str:
    speed, deciding = [], []
    changes: dict[Measure, list[float]] = {}  # of each task's first figure, by set
    halves: dict[Measure, list[float]] = {}
    for mine, theirs in pairs.values():
        task = of_runs(mine)
        difference = compare_runs(mine, theirs, "right") if task.main is task.paired else None
        change = mean(mine, "eval", task.main.key) - mean(theirs, "eval", task.main.key)
        changes.setdefault(task.main, []).append(difference.mean if difference else change)
        if difference:
            halves.setdefault(task.main, []).append((difference.high - difference.low) / 2)
        quicker = 1.0 / times(mine, theirs)
        # Runs that were plain training are quicker by the clock's noise alone.
        speed.append(min(1.0, quicker) if idle(mine, theirs) == SAME else quicker)
        deciding.append(mean(mine, "seconds", "decide") / mean(mine, "seconds", "total"))
    told = [
        f"{ours} against full training: {fmean(speed):.2f}x as fast on average over {len(speed)} "
        f"sets ({min(speed):.2f}x to {max(speed):.2f}x)"
    ]
    order = sorted(changes, key=FIGURES.index)
    for place, one in enumerate(order):
        form, scale, unit = ("+.2f", 100, " points") if one.percent else ("+.3f", 1, "")
        total = overall([scale * x for x in changes[one]], [scale * x for x in halves.get(one, ())])
        of = f" on {len(changes[one])}" + " of them" * (place == 0) if len(order) > 1 else ""
        told.append(f"{one.head} {total.mean:{form}}{unit}{of}{_between(total, form)}")
    told.append(f"deciding takes {max(deciding):.1%} of the time at the most.")
    return "; ".join(told)


def _between(found: Difference, form: str) -> str:
    """Return the interval in brackets, if there is one."""
    if not math.isfinite(found.low):
        return ""
    return f" (95 % interval {found.low:{form}} to {found.high:{form}})"


# ---- against a random subset of the same time


def against_rival(pairs: Pairs, ours: str, rival: str) -> str:
    """Return in words the held-out loss against the rival's; "" without a pair."""
    if not pairs:
        return ""
    told, relative, halves, took = [], [], [], []
    for mine, theirs in pairs.values():
        difference = compare_runs(mine, theirs)
        assert difference is not None
        plain = idle(mine, theirs)
        told.append({SAME: SAME, IDLE: IDLE}.get(plain, difference.verdict))
        loss = mean(theirs, "eval", "loss")
        level = bool(plain) or loss == 0  # nothing is a share of no loss at all
        relative.append(0.0 if level else difference.mean / loss)
        halves.append(0.0 if level else (difference.high - difference.low) / 2 / loss)
        took.append(times(mine, theirs))
    if ours != "finesieve" and max(abs(t - 1) for t in took) > NEAR:  # which the rival's time is of
        shown = sorted({f"{t:.2f}" for t in took})
        return (
            f"{ours} took {' to '.join((shown[0], shown[-1])[: len(shown)])} of the seconds of "
            f"{rival}: no verdict; held-out loss {fmean(relative):+.0%} against it."
        )
    text = words(told, overall(relative, halves), ours, rival, relative)
    if len(pairs) == 1 and told[0] not in (SAME, IDLE):
        ((mine, theirs),) = pairs.values()
        main = of_runs(mine).main
        text += f" {main.title} {_change(theirs, mine, main)}."
    return text


def broad(verdicts: Sequence[str]) -> bool:
    """Return whether these are many sets of one seed each, which the spread over them judges."""
    return len(verdicts) >= MANY and list(verdicts).count("one seed") >= len(verdicts) / 2


def words(
    verdicts: Sequence[str],
    total: Difference,
    ours: str,
    rival: str,
    relative: Sequence[float] = (),
) -> str:
    """Return the verdict on a suite: how many sets, and whether there is a gain at all.

    Args:
        verdicts: one a set; `SAME` is one.
        relative: the sets' relative differences in loss. Where there are many sets (`MANY`) of one
            seed each, the spread over them holds the seeds' own, so the interval over sets is the
            verdict.
    """
    if list(verdicts) == [SAME]:
        return (
            f"{ours} is the {SAME} here: its gates stayed open and all was trained on, so "
            f"against {rival} there is no gain."
        )
    if list(verdicts) == [IDLE]:
        return (
            f"{ours} was a random subset itself: its gates stayed open and its budget was spent on "
            f"a random share of the examples, so against {rival} there is no gain."
        )
    verdicts = ["tie" if v == IDLE else v for v in verdicts]
    count = {v: list(verdicts).count(v) for v in ("better", "tie", "worse", "one seed", SAME)}
    many = broad(verdicts)
    if many:
        ahead = sum(r < 0 for r in relative)
        behind = sum(r > 0 for r in relative)
        even = len(verdicts) - ahead - behind - count[SAME]
        tally = (
            f"{ours} against {rival}: lower loss on {ahead}, higher on {behind}"
            + (f", level on {even}" if even else "")
            + f", {SAME} on {count[SAME]} of {len(verdicts)} sets, one seed each"
        )
    elif len(verdicts) == 1:
        only = {"one seed": "one seed only, which proves nothing"}
        tally = f"{ours} against {rival}: {only.get(verdicts[0], verdicts[0])}"
    else:
        tally = (
            f"{ours} against {rival}: better on {count['better']}, tie on {count['tie']}, "
            f"worse on {count['worse']}"
            + (f", {SAME} on {count[SAME]}" if count[SAME] else "")
            + f" of {len(verdicts)} sets"
        )
        if count["one seed"]:
            tally += f" ({count['one seed']} with one seed only, which proves nothing)"
    tally += f"; held-out loss {total.mean:+.1%}" + (" on average" if len(verdicts) > 1 else "")
    if math.isfinite(total.low):
        tally += f" (95 % interval over sets {total.low:+.1%} to {total.high:+.1%})"
    if many:
        return tally + (
            ": a gain." if total.high < 0 else ": a loss." if total.low > 0 else ": no gain shown."
        )
    most = len(verdicts) / 2
    if len(verdicts) == 1:
        return tally + {"better": ": a gain on this set.", "worse": ": a loss on this set."}.get(
            verdicts[0], ": no gain shown."
        )
    if count["one seed"] >= most:
        return tally + ": no verdict before there are more seeds."
    if total.high < 0 or (count["worse"] == 0 and count["better"] > most):
        return tally + ": a gain."
    if total.low > 0 or (count["better"] == 0 and count["worse"] > most):
        return tally + ": a loss."
    return tally + ": no gain shown."


# ---- what to beware of


def cautions(
    records: Sequence[Record], full: Pairs, equal: Pairs, ours: str, rival: str
) -> list[str]:
    """Return what makes these numbers worth less than they look."""
    sets = {**full, **equal}

    def where(names: Sequence[str]) -> str:
        return f" on {', '.join(names)}" if len(sets) > 1 else ""

    told = []
    few = [name for name, (mine, _) in sets.items() if len({r["seed"] for r in mine}) < SEEDS]
    if few and not (len(sets) >= MANY and len(few) >= len(sets) / 2):  # the verdict itself says so
        told.append(f"fewer than {SEEDS} seeds{where(few)}: an indication, no proof.")
    off = {
        name: far
        for name, (mine, theirs) in equal.items()
        if ours == "finesieve" and (far := max(off_target(theirs, mine), default=0.0)) > CLOSE
    }
    if off:
        told.append(
            f"the seconds of {rival} are off by up to {max(off.values()):.0%}"
            f"{where([*off])}, so that is no comparison at equal time (a noisy machine?)."
        )
    shares = [
        r["examples"]["trained"] / r["examples"]["drawn"]
        for _, theirs in equal.values()
        for r in theirs
        if r.get("subset") is not None
    ]
    if len(sets) == 1 and shares and min(shares) > ALL:
        told.append(
            f"{rival} trained on all examples too, in another order: its distance from full "
            "training is what an order makes by chance."
        )
    for pairs, other in ((full, "full training"), (equal, rival)):
        found = {name: _processor(*pair) for name, pair in pairs.items()}
        busy = {name: x for name, x in found.items() if x and abs(x[1] / x[0] - 1) > BUSY}
        if busy:
            wall, processor = max(busy.values(), key=lambda x: abs(math.log(x[1] / x[0])))
            told.append(
                f"by the clock {ours} took {wall:.2f} of the time of {other}, by processor time "
                f"{processor:.2f}{where([*busy])}: the machine was busy with something else too, "
                "so trust the latter (or run again with --clock processor)."
            )
    for name, (mine, theirs) in full.items():
        books = [r["sieve_saved"] for r in mine if "sieve_saved" in r]
        spent = (_processor(mine, theirs) or (0.0, times(mine, theirs)))[1]
        if len(books) == len(mine) and abs(fmean(books) - (1.0 - spent)) > BOOKS:
            told.append(
                f"by its own books {ours} saved {fmean(books):.0%} (`sieve_saved`), measured "
                f"against full training {1.0 - spent:.0%}{where([name])}: trust the latter."
            )
    for name in sets:
        for method, runs in grouped(records)[name].items():
            stuck = {of_result(r["eval"]).has_learned_nothing(r["eval"]) for r in runs} - {None}
            told += [
                f"{method} {what}{where([name])}: it has not learned, and its seconds mean nothing."
                for what in sorted(map(str, stuck))
            ]
    return told


def _processor(ours: Sequence[Record], rival: Sequence[Record]) -> tuple[float, float] | None:
    """Return the ratio of the seconds and that of the processor's, or None where the latter say
    nothing: they were not recorded, a GPU did the work, or seconds are of the processor anyway."""
    for r in (*ours, *rival):
        by_processor = r.get("config", {}).get("clock") == "processor"
        if not r.get("cpu_seconds") or by_processor or r["hardware"]["device"] != "cpu":
            return None
    cpu = mean(ours, "cpu_seconds") / mean(rival, "cpu_seconds")
    return times(ours, rival), cpu
