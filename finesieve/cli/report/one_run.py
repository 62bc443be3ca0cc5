"""The page's part on one run: in words, its learning curve, its stages, each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from finesieve.cli.comparing.groups import SAME, idle
from finesieve.cli.results import Record
from finesieve.cli.tasks.registry import of_result, of_runs
from finesieve.insight.charts import Series, chart, explained

TRAIN, SCORE, OTHER = "#0f766e", "#d97706", "#4f46e5"
STAGES = {1: "warm-up", 2: "backward pass skipped", 3: "forward pass skipped too"}
_ABOUT_STAGES = (
    "Stage 1 trains on everything. In stage 2 every example is scored, by a forward pass without "
    "gradient, and those of small gradients are mostly left out. In stage 3 a small predictor "
    "decides what is scored at all."
)


def in_words(run: Record) -> str:
    """Return a paragraph: what the run did, what it reached, what it saved, what to look at."""
    drawn, result, config = run["examples"]["drawn"], run["eval"], run["config"]
    task = of_result(result)
    trained, scored = (run["examples"][k] / drawn for k in ("trained", "scored"))
    told = [
        f"{run['name']} fine-tuned {config['model']} on {drawn // config['epochs']:,} examples, "
        f"{config['epochs']} epoch(s), in {run['seconds']['total']:.1f} s.",
        task.in_words(result),
    ]
    told.append(_savings(run, trained, scored))
    weak = _weakest(result.get("classes", ()))
    warning = task.warning(result, config)
    if warning:
        told.append(f"Beware: {warning}.")
    elif weak:
        told.append(task.weakest(weak))
    if run["examples"].get("kept_out"):
        told.append(f"{run['examples']['kept_out']} examples had a loss that was not finite.")
    return " ".join(told)


def _savings(run: Record, trained: float, scored: float) -> str:
    if run.get("subset") is not None:
        return f"It trained on a random subset of {trained:.0%} of the examples."
    if idle([run]) == SAME:
        return "Its gates never closed: everything was trained on, so no time was saved."
    shares = f"It trained on {trained:.0%} of the examples drawn, and scored {scored:.0%}."
    saved = run.get("sieve_saved")
    if run["name"] == "full" or saved is None:
        return shares
    word = "less" if saved >= 0 else "more"
    return (
        f"{shares} By what a token was measured to cost, that is {abs(saved):.0%} {word} than "
        "training on everything would have cost (`sieve_saved`)."
    )


def _weakest(classes: Sequence[Mapping[str, object]]) -> Mapping[str, object] | None:
    known = [c for c in classes if c["recall"] is not None]
    return min(known, key=lambda c: float(str(c["recall"]))) if len(known) > 1 else None


def class_table(methods: Mapping[str, Sequence[Record]]) -> str:
    """Return a table of each class's recall by method, the weakest first; "" if it is not known.

    Args:
        methods: the runs of each, which have the same classes.
    """
    known = {
        m: runs for m, runs in methods.items() if runs and all("classes" in r["eval"] for r in runs)
    }
    if not known:
        return ""
    (first, *_) = (run for runs in known.values() for run in runs)
    lines = []
    for i, one in enumerate(first["eval"]["classes"]):
        cells: list[float | None] = []
        for runs in known.values():
            found = [r["eval"]["classes"][i]["recall"] for r in runs]
            cells.append(None if None in found else sum(found) / len(found))
        lines.append((one["name"], one["n"], cells))
    lines.sort(key=lambda line: (line[2][-1] is None, line[2][-1] or 0.0))
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{n:,}</td>"
        + "".join(f"<td>{'–' if c is None else f'{c:.1%}'}</td>" for c in cells)
        + "</tr>"
        for name, n, cells in lines
    )
    head = "".join(f"<th>{escape(m)}</th>" for m in known)
    title, one, counted = of_runs([first]).each
    note = (
        f"Recall: how many of the {counted} of a {one} are recognised, the mean over seeds. What "
        "is rare is where a saving may cost most."
    )
    return (
        f'<h3>{title}</h3>{explained(note)}<div class="scroll"><table><tr><th>{one}</th>'
        f"<th>{counted}</th>{head}</tr>{body}</table></div>"
    )


def over_time(run: Record) -> str:
    """Return the charts of one run over the stream: the learning curve, and what its gates did."""
    curve = run.get("curve") or []
    drawn = run["examples"]["drawn"]
    first = [(p["elapsed"], p["train_loss"]) for p in curve if p.get("train_loss") is not None]
    out = [f"<h3>{escape(run['name'])}, seed {run['seed']}</h3><p>{escape(in_words(run))}</p>"]
    moved = len(run["stages"]) > 1
    if moved:
        moves = "".join(
            f"<li><b>Stage {m['stage']}</b> ({STAGES[m['stage']]}) from example "
            f"{m['from_example']:,}: {escape(str(m['reason']))}{_late(m, drawn)}</li>"
            for m in run["stages"]
        )
        out.append(f"{explained(_ABOUT_STAGES)}<ul>{moves}</ul>")
        out.append(
            '<p class="legend">'
            + "".join(f'<span><i class="stage{s}"></i>{t}</span>' for s, t in STAGES.items())
            + "</p>"
        )
    out.append('<div class="charts">')
    if first or moved:
        out.append(
            chart(
                "Learning curve",
                [Series("loss", first, OTHER)],
                "seconds",
                "training loss",
                zero=True,
                note="The loss of the last 20 or so batches, before the model was trained on them. "
                "Examples that were chosen weigh as many as they stand for, so that this estimates "
                "the mean over all examples, as in full training.",
            )
        )
    if moved:
        out += _gates(run, curve, drawn)
    return "".join([*out, "</div>"])


def _late(move: Mapping[str, Any], drawn: int) -> str:
    """Return what to add to a move for which the stream had no example left; else ""."""
    late = move["from_example"] >= drawn and move["stage"] > 1
    return " (after the last example, so it changed nothing)" if late else ""


def _gates(run: Record, curve: Sequence[Mapping[str, float]], drawn: int) -> list[str]:
    """Return the charts of what the gates did and what they went by."""
    starts = [*((m["stage"], m["from_example"] / drawn) for m in run["stages"]), (0, 1.0)]
    shades = [(a[1], b[1], f"stage{a[0]}") for a, b in pairwise(starts)]
    rates: dict[str, list[tuple[float, float]]] = {"trained": [], "scored": []}
    step = max(1, len(curve) // 12)
    head = (run.get("head_start") or {}).get("examples", 0)  # scored before the first was drawn
    marks = [{"drawn": 0, "trained": 0, "scored": head}, *curve[step - 1 :: step]]
    for a, b in pairwise(marks):
        if b["drawn"] > a["drawn"]:
            for key, points in rates.items():
                rate = (b[key] - a[key]) / (b["drawn"] - a["drawn"])
                points.append((b["drawn"] / drawn, rate))

    def of(name: str, key: str, color: str) -> Series:
        points = [(p["drawn"] / drawn, p[key]) for p in curve if p.get(key) is not None]
        return Series(name, points, color)

    size = of_runs([run]).size
    shown = (
        (
            "Trained and scored",
            [Series("trained", rates["trained"], TRAIN), Series("scored", rates["scored"], SCORE)],
            "share of what was drawn",
            True,
            "How much of each part of the stream was trained on, and scored by a forward pass "
            "without gradient (the fitting of the head apart).",
        ),
        (
            "The predictor, judged before it learns",
            [
                of("AUC (sizes above the mean)", "auc", TRAIN),
                of("calibration (1 is right)", "calibration", "#c2410c"),
                of("calibration on the audited", "audit", "#a16207"),
            ],
            "",
            False,
            "AUC: how often it ranks an example of large gradient above one of small; 0.5 is a "
            "guess. Calibration: sizes found over sizes predicted. Audited: a small random share "
            "that is scored whatever it says.",
        ),
        (
            "Threshold",
            [of("threshold", "threshold", "#475569")],
            "size",
            False,
            f"{size} From this size on every "
            "example is kept; smaller ones are kept in proportion to their size, and weigh more.",
        ),
        (
            "Concentration of sizes",
            [of("concentration", "concentration", "#be185d")],
            "",
            True,
            "The lower, the more of the gradient is in few examples, and the more can be skipped. "
            "At 100 % all examples are alike, and nothing can.",
        ),
    )
    return [
        chart(
            title,
            series,
            "share of the stream",
            unit,
            percent=percent,
            shades=shades,
            zero=True,
            note=note,
        )
        for title, series, unit, percent, note in shown
    ]
