"""The tables of docs/how-to/look-into-your-data.md, from results/insight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from finesieve.insight.curves import clear

FOLDER = Path(__file__).parent.parent / "results" / "insight"
NEAR = 0.03  # what the look aims at: not further below five fine-tunings
LOOKS = {"trained": "inspect", "thorough": "inspect --thorough"}
RIVALS = ("ours", "cleanlab", "cleanlab, margin", "cleanlab, our probabilities")


def records(part: str) -> list[dict[str, Any]]:
    """The records of a part of benchmarks/insight.py."""
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{part}.json").read_text())["records"]
    return found


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(x)} |" for x in (head, ["---"] * len(head), *lines))


def labels() -> str:
    """Wrong labels: ours and cleanlab's, means over seeds."""
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records("labels"):
        cases.setdefault((record["set"], record["kind"], record["share"]), []).append(record)
    lines = []
    for (name, kind, share), runs in cases.items():
        cells = [f"{fmean(r[rival]['auprc'] for r in runs):.3f}" for rival in RIVALS]
        lift = [f"{fmean(r[rival]['lift'] for r in runs):.2f}" for rival in RIVALS[:2]]
        seconds = [f"{fmean(r['seconds'][who] for r in runs):.1f}" for who in RIVALS[:2]]
        wrong = fmean(r["wrong"] for r in runs)
        counted = fmean(r["estimate"][0] for r in runs)
        inside = sum(r["estimate"][1] <= r["wrong"] <= r["estimate"][2] for r in runs)
        what = "crowd" if kind == "crowd" else f"{share:.0%} {kind}"
        lines.append(
            [
                name,
                what,
                *cells,
                *lift,
                f"{wrong:.0f}",
                f"{counted:.0f}",
                f"{inside} of {len(runs)}",
                *seconds,
            ]
        )
    head = ["set", "wrong labels", *(f"AUPRC {rival}" for rival in RIVALS)]
    head += ["lift ours", "lift cleanlab", "wrong", "we count", "in the interval"]
    return table([*head, "seconds ours", "seconds cleanlab"], lines)


def clean() -> str:
    """Sets whose labels are thought right: how many we count as wrong."""
    looked = {record["set"]: record for record in records("by_hand")}
    lines = []
    for record in records("clean"):
        value, low, high, theirs = (
            f"{count / record['rows']:.2%}" for count in (*record["estimate"], record["cleanlab"])
        )
        hand = looked[record["set"]]
        called = f"{len(hand['called_wrong'])} of {hand['looked_at']}"
        rows = f"{record['rows']:,}"
        lines.append([record["set"], rows, value, f"{low} to {high}", theirs, called])
    head = ["set", "rows", "we count as wrong", "95 % interval", "cleanlab counts"]
    return table([*head, "called wrong by a reader"], lines)


def enough() -> str:
    """How often the forecast's interval held what came, made from half of the data."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for record in records("enough"):
        sets.setdefault(record["set"], []).append(record)
    lines = []
    for name, runs in sets.items():
        of = [fmean(r["forecast"][i] for r in runs) for i in range(3)]
        lines.append(
            [
                name,
                f"{runs[0]['rows']:,}",
                f"{100 * fmean(r['error'] for r in runs):.1f} %",
                f"{100 * of[0]:+.1f} ({100 * of[1]:+.1f} to {100 * of[2]:+.1f})",
                f"{100 * fmean(r['change'] for r in runs):+.1f}",
                f"{sum(r['holds'] for r in runs)} of {len(runs)}",
            ]
        )
    head = ["set", "rows", "error", "forecast for twice as many, points", "came", "held"]
    return table(head, lines)


def repeats() -> str:
    """Injected copies, and the time for a million rows."""
    found = records("repeats")
    sets = [record for record in found if "precision" in record]
    lines = [
        [
            r["set"],
            f"{r['rows']:,}",
            f"{r['words']:.0f}",
            *(f"{r[key]:.3f}" for key in ("exact recall", "edited recall", "precision")),
        ]
        for r in sets
    ]
    head = ["set", "rows", "words", "recall of copies", "of edited copies", "precision"]
    return "\n\n".join(
        [
            table(head, lines),
            *(
                f"{r['rows']:,} texts ({r['bytes'] / 1e6:.0f} MB) took {r['seconds']:.0f} seconds "
                f"of one processor and {r['peak_memory_mb'] / 1024:.1f} GB, texts included."
                for r in found
                if "wall" in r
            ),
        ]
    )


def trained() -> str:
    """The look after training against the frozen model's."""
    lines = []
    for run in records("trained"):
        seconds, rows = run["seconds"], run["rows"]
        what = {"crowd": "crowd", "none": "none"}.get(run["kind"], "")
        keys = ("trained", "frozen", "training losses")
        ranks = [f"{run[key]['auprc']:.3f}" if key in run else "" for key in keys]
        after, before = (
            f"{value:.0f} ({low:.0f} to {high:.0f})"
            for value, low, high in (run["estimate"], run["frozen estimate"])
        )
        lines.append(
            [
                run["set"],
                what or f"{run['share']:.0%} {run['kind']}",
                f"{rows:,}",
                *ranks,
                f"{run['wrong']}",
                after,
                before,
                f"{seconds['of it training']:.0f}",
                f"{seconds['trained'] - seconds['of it training']:.0f}",
            ]
        )
    head = ["set", "wrong labels", "rows", "AUPRC trained", "AUPRC frozen"]
    head += [
        "AUPRC of training's losses",
        "wrong",
        "we count",
        "we count, frozen",
        "seconds of training",
        "of the rest",
    ]
    return table(head, lines)


def folds() -> str:
    """The look after training against five fine-tunings of the same model, with what came of it."""
    runs, lines = records("folds"), []
    for run in runs:
        ranks = (run[key]["auprc"] for key in (*LOOKS, "folds, cleanlab", "folds, our ranking"))
        seconds = run["seconds"]
        lines.append(
            [
                run["set"],
                f"{run['share']:.0%} {run['kind']}",
                f"{run['rows']:,}",
                *(f"{value:.3f}" for value in ranks),
                f"{run['accuracy of folds']:.1%}",
                *(f"{seconds[key]:.0f}" for key in (*LOOKS, "folds")),
                *(f"{seconds[key] / seconds['folds']:.2f}" for key in LOOKS),
            ]
        )
    looks = [f"`{name}`" for name in LOOKS.values()]
    head = ["set", "wrong labels", "rows", *(f"AUPRC {look}" for look in looks)]
    head += ["AUPRC cleanlab on five fine-tunings", "AUPRC our ranking on these"]
    head += ["their accuracy", *(f"seconds {look}" for look in looks), "seconds five fine-tunings"]
    head += [f"share of it, {look}" for look in looks]
    said = []
    for key, name in LOOKS.items():
        ahead = [run[key]["auprc"] - run["folds, cleanlab"]["auprc"] for run in runs]
        shares = [run["seconds"][key] / run["seconds"]["folds"] for run in runs]
        said.append(
            f"The AUPRC of `{name}` is at most {NEAR} below cleanlab's on "
            f"{sum(x >= -NEAR for x in ahead)} of {len(runs)} sets, the difference is "
            f"{min(ahead):+.3f} to {max(ahead):+.3f}, and it takes {min(shares):.0%} to "
            f"{max(shares):.0%} of the time."
        )
    return f"{' '.join(said)}\n\n{table(head, lines)}"


def cost() -> str:
    """Seconds of training with and without the look."""
    lines, deep = [], "inspect --thorough"
    keys = records("cost")[0]["seconds"]
    for run in records("cost"):
        seconds = {key: fmean(values) for key, values in run["seconds"].items()}
        plain, full = seconds["train"], seconds["train in full"]
        rest = {k: seconds[k] - fmean(v) for k, v in run["of them in the loop"].items()}
        more = rest["inspect"] - rest["train"]
        lines.append(
            [
                run["set"],
                f"{run['rows']:,}",
                f"{run['words']:.0f}",
                *(f"{seconds[key]:.0f}" if key in seconds else "" for key in keys),
                f"{more:.1f}",
                f"{more / plain:.1%}",
                f"{more / full:.1%}",
                f"{(rest[deep] - rest['train']) / plain:.1%}" if deep in rest else "",
            ]
        )
    head = ["set", "rows", "words", *(f"`{key}`" for key in keys)]
    head += ["the look", "of `train`", "of `train in full`", "a thorough look, of `train`"]
    return table(head, lines)


def memory() -> str:
    """Bytes a row, as the difference of two files."""
    found = records("memory")
    sentences = []
    for kind, name in (("jsonl", "JSON lines"), ("csv", "CSV")):
        few, many = (run for run in found if run["kind"] == kind)
        bytes_more = (many["peak_memory_mb"] - few["peak_memory_mb"]) * 2**20
        rows_more = many["rows"] - few["rows"]
        sentences.append(
            f"{many['rows']:,} rows of {name} ({many['file_bytes'] / 1e6:.0f} MB) took "
            f"{many['seconds']:.0f} seconds of a processor and {many['peak_memory_mb'] / 1024:.1f} "
            f"GB at the most, {bytes_more / rows_more / 1e3:.2f} kB a row more than fewer of them."
        )
    # A run of its own, of a quarter of an hour.
    for run in records("large") if (FOLDER / "large.json").exists() else []:
        sentences.append(
            f"{run['rows']:,} rows of JSON lines ({run['file_bytes'] / 1e9:.1f} GB) took "
            f"{run['seconds'] / 60:.0f} minutes of a processor and "
            f"{run['peak_memory_mb'] / 1024:.1f} GB."
        )
    return " ".join(sentences)


def section() -> str:
    """All of it, with what was measured how."""
    held, first = records("enough"), records("labels")[0]
    runs = records("trained")
    inside = sum(run["estimate"][1] <= run["wrong"] <= run["estimate"][2] for run in runs)
    parts = [
        "Frozen MiniLM-L6, one CPU thread, means of 3 seeds. AUPRC: area under the "
        "precision-recall curve of the ranking. Lift: how many times as many wrong labels there "
        "are among the first rows, as many as are wrong, as in all. cleanlab: its default score "
        "(self-confidence) and its margin, on probabilities of a 5-fold logistic regression on "
        "the same features, and its default score on our probabilities. Our ranking was chosen on "
        "trec6, snips and ag_news_noisy10k, so the first row is no independent test; how the count "
        "of wrong labels is extended to the surest row, on seed 0 of these sets. Seconds are "
        "those after the features, which both need and which take most of the time "
        f"({first['seconds']['features']:.0f} seconds in the first row); our fit is the slower "
        "one. A table further down has five fine-tunings instead.",
        labels(),
        "Clean sets. The reader saw the 30 most suspicious rows, text and labels alone; labels of "
        "clickbait and subj are by where a text comes from:",
        clean(),
        "Forecasts, made from half of the rows and checked on all of them. The interval held what "
        f"came in {sum(r['holds'] for r in held)} of {len(held)} cases; in "
        f"{sum(not clear(*r['forecast'][1:]) for r in held)} it was so wide that the page "
        "says that it cannot be told:",
        enough(),
        "Repeats: 500 copies with other case and blanks, and 500 with a word left out, doubled or "
        "misspelt, put into texts in which nothing repeated:",
        repeats(),
    ]
    parts += [
        "After an epoch of training, in seconds of one processor (one seed; how much is looked at "
        "again was chosen on all of these but clickbait, and how much wider the interval is than "
        "without training, on earlier runs of the same sets: so that it holds is no independent "
        "test). The rest is reading, the look and the exports. The interval held the number of "
        f"wrong labels in {inside} of {len(runs)} runs:",
        trained(),
        "Against cleanlab on a cross-validation of the whole model by fine-tuning: five "
        "times the model is trained in full on four fifths of the rows (one epoch, the same "
        "learning rate, batches and head start as in `inspect`) and predicts the last fifth; "
        "cleanlab's default score ranks. One seed, 4,000 rows, the flips of the table above, in "
        "seconds of one processor from reading to the ranking; the fine-tunings were run earlier, "
        "on a machine with less to do. That a head on words judges, too, was chosen on one run "
        "each of these sets. What `inspect` finds differs a little from the table "
        f"above, since how much it filters hangs on the clock. {folds()}",
        "What the look costs beside training, in processor seconds; `train` filters, `train in "
        "full` does not. How much is trained on hangs on the clock, so two runs differ by more "
        "than the look. It is the difference of what `train` and `inspect` take beside their "
        "loops, means of two rounds in turns:",
        cost(),
        f"With `--model none`: {memory()}",
    ]
    return "\n\n".join(parts)
