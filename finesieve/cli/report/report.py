"""One self-contained HTML page from run records: of one run, of a comparison, of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from finesieve import __version__
from finesieve.cli.comparing.groups import RIVAL, grouped, mean
from finesieve.cli.comparing.suite import title_of
from finesieve.cli.comparing.tables import HEADS, new_columns, rows
from finesieve.cli.comparing.verdict import verdict
from finesieve.cli.report.one_run import class_table, over_time
from finesieve.cli.report.style import PAGE
from finesieve.cli.report.texts import Texts, texts_of
from finesieve.cli.results import Record, read_record
from finesieve.cli.tasks.registry import baseline, of_runs
from finesieve.cli.training.runfiles import EXAMPLES, SUMMARY
from finesieve.errors import ConfigError
from finesieve.insight.charts import Series, chart, explained, histogram, stacked

COLORS = ("#0f766e", "#c2410c", "#4f46e5", "#a16207", "#be185d", "#475569", "#15803d", "#7e22ce")
PARTS = {"train": "#0f766e", "score": "#d97706", "decide": "#be185d", "data": "#94a3b8"}
MOST_TEXT, LISTED = 160, 8
_ABOUT_TABLE = (
    "Fitted head: the new last layer was fitted to the first examples before training, with every "
    "method alike. Scored: the share of the examples that a forward pass without gradient looked "
    "at, those of the fitted head included."
)
_ABOUT_RIVAL = (
    " Last column: the held-out loss minus that of a random subset that takes as many seconds as "
    'finesieve; below 0 is better. "In 1.50 of its seconds" says that the method took 1.50 times '
    "as long as the random subset."
)


def report(paths: Sequence[str], output: str) -> list[str]:
    """Write the page; returns complaints about records that were left out.

    Args:
        paths: run folders, folders of a comparison, folders of benchmark results.

    Raises:
        ConfigError: if no sound record is found.
    """
    records, folders, complaints = gather(paths)
    if not records:
        raise ConfigError(
            f"no run records in {', '.join(paths)}; expected the output folder of `finesieve "
            "train`, `compare` or `bench`" + "".join(f"; {c}" for c in complaints)
        )
    target = Path(output)
    if not target.parent.is_dir():
        raise ConfigError(f"no folder {target.parent} to write {target.name} into")
    shown = {
        place: folder
        for place, folder in folders.items()
        if (folder / EXAMPLES).exists() and len(records[place]["stages"]) > 1
    }
    found: dict[str, Texts] = {}
    texts = {place: texts_of(records[place], found) for place in shown}
    target.write_text(page(records, shown, texts), encoding="utf-8")
    return complaints + [t.missing for t in found.values() if t.missing]


def gather(paths: Sequence[str]) -> tuple[list[Record], dict[int, Path], list[str]]:
    """Records, the run folder of each that has one (by place), and what was left out."""
    records: list[Record] = []
    folders: dict[int, Path] = {}
    complaints: list[str] = []
    for given in paths:
        path = Path(given)
        if not path.exists():
            raise ConfigError(
                f"no file or folder {given}; expected the output folder of `finesieve train`, "
                "`compare` or `bench`"
            )
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            if file.name == SUMMARY:
                try:
                    record = json.loads(file.read_text(encoding="utf-8"))
                    equal = RIVAL.replace(" ", "-") in file.parent.name
                    name = RIVAL if equal else record["method"]
                    title = title_of(record["config"]["train"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    complaints.append(f"{file} is half-written or of another version")
                    continue
                folders[len(records)] = file.parent
                records.append({"role": "claim", "set": title, "name": name, **record})
            elif "model" not in file.parts and file.name != "compare.json":
                sound, wrong = read_record(file)
                if sound is None:
                    complaints.append(wrong)
                elif sound.get("role") == "claim":
                    records.append(sound)
    return records, folders, complaints


# ---- the page


def page(records: Sequence[Record], folders: Mapping[int, Path], texts: Mapping[int, Texts]) -> str:
    """Return the page.

    Args:
        records: of all runs, also of those that failed.
        folders: of the runs whose examples are shown, by the place of their records.
        texts: of those runs' training data, by the same places.
    """
    # As a comparison prints them: full training first, the rival last.
    order = sorted(records, key=lambda r: (r["name"] == RIVAL) - (r["name"] == "full"))
    groups = grouped(order)
    names = list(dict.fromkeys(r["name"] for r in order))
    color = {n: COLORS[i % len(COLORS)] for i, n in enumerate(names)}
    body = [_head(records)]
    for set_name, methods in groups.items():
        sound = {m: runs for m, runs in methods.items() if runs}
        body += [f"<section><h2>{escape(set_name)}</h2>", _table(methods)]
        if sound:
            known = baseline([run for runs in sound.values() for run in runs])
            body += [f"<p>{escape(known)}</p>", *_charts(sound, color)]
            body += [class_table(sound), *(over_time(runs[0]) for runs in sound.values())]
        body.append("</section>")
    for place, folder in folders.items():
        body.append(_examples(records[place], folder, texts[place]))
    return PAGE.replace("{{body}}", "\n".join(body))


def _charts(methods: Mapping[str, Sequence[Record]], color: Mapping[str, str]) -> list[str]:
    """Return dots of every run against its seconds, and where the seconds went."""
    out = ['<div class="charts">']
    several = sum(map(len, methods.values())) > 1
    main = of_runs([run for runs in methods.values() for run in runs]).main
    for what, title, note in (
        ("loss", "Held-out loss", "Lower is better, and further left is cheaper."),
        (main.key, main.title, "Higher is better, and further left is cheaper."),
    ):
        series = [
            Series(
                m,
                [(r["seconds"]["total"], r["eval"][what]) for r in runs],
                color[m],
                "dots",
                [f"{r['eval'][what]:.4f}, {r['seconds']['total']:.0f} s" for r in runs],
            )
            for m, runs in methods.items()
        ]
        if several:
            note = f"One dot a run, on the evaluation data. {note}"
            out.append(chart(f"{title} against total seconds", series, "seconds", title, note=note))
    spent = [(m, {k: mean(runs, "seconds", k) for k in PARTS}) for m, runs in methods.items()]
    note = (
        "train: the training steps. score: forward passes without gradient that choose examples, "
        "and the head start. decide: the gates themselves. data: waiting for the loader. "
        "Evaluation is not counted."
    )
    return [*out, stacked("Where the seconds went", spent, PARTS, "s", note), "</div>"]


def _head(records: Sequence[Record]) -> str:
    config, hardware = records[0].get("config", {}), records[0].get("hardware", {})
    versions = records[0].get("versions", {})
    names = {r["name"] for r in records if "failed" not in r}
    told = ""
    if "finesieve" in names and names & {"full", RIVAL}:
        paragraphs = verdict(records).split("\n\n")
        told = "".join(f'<p class="verdict">{escape(text)}</p>' for text in paragraphs)
    return (
        f"<header><h1>finesieve report</h1>{told}<p>{len(records)} runs · model "
        f"{escape(str(config.get('model')))} · {escape(str(config.get('precision')))} · "
        f"{config.get('epochs')} epoch(s) · {escape(str(hardware.get('name')))}, "
        f"{hardware.get('threads')} thread(s) · torch {escape(str(versions.get('torch')))} · "
        f"finesieve {escape(str(versions.get('finesieve', __version__)))}</p></header>"
    )


def _table(methods: Mapping[str, Sequence[Record]]) -> str:
    lines = []
    every = rows(methods)
    shown_columns = new_columns(HEADS, every)
    heads = [HEADS[i] for i in shown_columns]
    for *cells, against in ([row[i] for i in shown_columns] for row in every):
        told = escape(against)
        if cells[1] != "failed" and ":" in against:  # the verdict's first word has a colour
            style = against.split(":")[0].split()[0]
            told = f'<span class="{style}">{escape(against)}</span>'
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr>{shown}<td>{told}</td></tr>")
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    table = f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
    return table + explained(_ABOUT_TABLE + (_ABOUT_RIVAL if RIVAL in methods else ""))


# ---- single examples


def _examples(record: Record, folder: Path, texts: Texts) -> str:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / EXAMPLES).to_pylist()
    inspected = of_runs([record]).inspected
    revealed = [r for r in rows if r["loss"] is not None]
    skipped = [r for r in rows if r["verdict"] == "skipped-forward" and r["predicted"] is not None]
    lists = (
        (
            "Skipped as easiest",
            "never scored: the predictor expected the smallest sizes",
            sorted(skipped, key=lambda r: r["predicted"])[:LISTED],
            "predicted",
        ),
        (
            "Hardest",
            "the highest losses when first met"
            + "; which labels look wrong, finesieve inspect says" * inspected,
            sorted(revealed, key=lambda r: -r["loss"])[:LISTED],
            "loss",
        ),
    )
    out = [
        f"<section><h2>Examples of {escape(record['name'])}, seed {record['seed']}</h2>"
        '<div class="charts">',
        histogram(
            "Losses revealed",
            [r["loss"] for r in revealed],
            "loss",
            note="The loss of every example that was trained on or scored, when it was first met.",
        ),
        histogram(
            "Sizes predicted",
            [r["predicted"] for r in rows if r["predicted"] is not None],
            "predicted size",
            note="What the predictor expected the gradient's norm at the logits to be.",
        ),
        "</div>",
        f"<p>Rows are counted from 0, without a header.{escape(texts.told)}</p>",
    ]
    for title, note, chosen, key in lists:
        out.append(f"<h3>{title}</h3><p>{note}</p><ol>")
        for r in chosen:
            text = texts.of(r["row"])
            short = text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
            out.append(f"<li><code>{r[key]:.3f}</code> row {r['row']} {escape(short)}</li>")
        out.append("</ol>" if chosen else "</ol><p class='none'>none</p>")
    out.append("</section>")
    return "".join(out)
