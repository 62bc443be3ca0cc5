"""One self-contained HTML page from run records: of one run, of a comparison, of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from finesieve import __version__
from finesieve.cli.comparing.suite import title_of
from finesieve.cli.comparing.tables import HEADS, RIVAL, grouped, mean, rows, verdict
from finesieve.cli.report.charts import Series, chart, histogram, stacked
from finesieve.cli.report.texts import Texts, texts_of
from finesieve.cli.results import Record, read_record
from finesieve.cli.training.runfiles import EXAMPLES, SUMMARY
from finesieve.errors import ConfigError

COLORS = ("#0f766e", "#c2410c", "#4f46e5", "#a16207", "#be185d", "#475569", "#15803d", "#7e22ce")
PARTS = {"train": "#0f766e", "score": "#d97706", "decide": "#be185d", "data": "#94a3b8"}
MOST_TEXT, LISTED = 160, 8


def report(paths: Sequence[str], output: str) -> list[str]:
    """Write the page; returns complaints about records that were left out.

    paths: run folders, folders of a comparison, folders of benchmark results.
    Raises `ConfigError` if no sound record is found.
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
            raise ConfigError(f"no file or folder {given}")
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
    groups = grouped(records)
    names = list(dict.fromkeys(r["name"] for r in records))
    color = {n: COLORS[i % len(COLORS)] for i, n in enumerate(names)}
    body = [_head(records)]
    for set_name, methods in groups.items():
        body.append(f"<section><h2>{escape(set_name)}</h2>")
        body.append(_table(methods))
        sound = {m: runs for m, runs in methods.items() if runs}
        if sound:
            body.append('<div class="charts">')
            for what, title in (
                ("loss", "Held-out loss against total seconds"),
                ("accuracy", "Accuracy against total seconds"),
            ):
                series = [
                    Series(
                        m,
                        [(r["seconds"]["total"], r["eval"][what]) for r in runs],
                        color[m],
                        "dots",
                        [
                            f"{m}, seed {r['seed']}: {r['eval'][what]:.4f}, "
                            f"{r['seconds']['total']:.0f} s"
                            for r in runs
                        ],
                    )
                    for m, runs in sound.items()
                ]
                body.append(chart(title, series, "seconds", title.split(" against")[0]))
            rows = [(m, {k: mean(runs, "seconds", k) for k in PARTS}) for m, runs in sound.items()]
            body.append(stacked("Where the seconds went", rows, PARTS, "s"))
            body.append("</div>")
        for run in [runs[0] for m, runs in sound.items() if len(runs[0]["stages"]) > 1]:
            body.append(_over_time(run))
        body.append("</section>")
    for place, folder in folders.items():
        body.append(_examples(records[place], folder, texts[place]))
    return PAGE.replace("{{body}}", "\n".join(body))


def _head(records: Sequence[Record]) -> str:
    config, hardware = records[0].get("config", {}), records[0].get("hardware", {})
    versions = records[0].get("versions", {})
    told = ""
    if {"finesieve", RIVAL} <= {r["name"] for r in records}:
        told = f'<p class="verdict">{escape(verdict(records))}</p>'
    return (
        f"<header><h1>finesieve report</h1>{told}<p>{len(records)} runs · model "
        f"{escape(str(config.get('model')))} · {escape(str(config.get('precision')))} · "
        f"{config.get('epochs')} epoch(s) · {escape(str(hardware.get('name')))}, "
        f"{hardware.get('threads')} thread(s) · torch {escape(str(versions.get('torch')))} · "
        f"finesieve {escape(str(versions.get('finesieve', __version__)))}</p></header>"
    )


def _table(methods: Mapping[str, Sequence[Record]]) -> str:
    lines = []
    for *cells, against in rows(methods):
        told = escape(against)
        if cells[1] != "failed" and ":" in against:  # the verdict's first word has a colour
            style = against.split(":")[0].split()[0]
            told = f'<span class="{style}">{escape(against)}</span>'
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr>{shown}<td>{told}</td></tr>")
    head = "".join(f"<th>{escape(h)}</th>" for h in HEADS)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _over_time(run: Record) -> str:
    """The stages of one run: realised rates, what the window said, the predictor's quality."""
    curve = run.get("curve") or []
    drawn = run["examples"]["drawn"]
    starts = [*((m["stage"], m["from_example"] / drawn) for m in run["stages"]), (0, 1.0)]
    shades = [(a[1], b[1], f"stage{a[0]}") for a, b in pairwise(starts)]
    rates: dict[str, list[tuple[float, float]]] = {"trained": [], "scored": []}
    step = max(1, len(curve) // 12)
    marks = [{"drawn": 0, "trained": 0, "scored": 0}, *curve[step - 1 :: step]]
    for a, b in pairwise(marks):
        if b["drawn"] > a["drawn"]:
            for key, points in rates.items():
                rate = (b[key] - a[key]) / (b["drawn"] - a["drawn"])
                points.append((b["drawn"] / drawn, rate))

    def of(key: str) -> list[tuple[float, float]]:
        return [(p["drawn"] / drawn, p[key]) for p in curve if p.get(key) is not None]

    moves = "".join(
        f"<li><b>stage {m['stage']}</b> from example {m['from_example']:,}: "
        f"{escape(str(m['reason']))}</li>"
        for m in run["stages"]
    )
    x = "share of the stream"
    return (
        f"<h3>{escape(run['name'])}, seed {run['seed']}: over the stream</h3><ul>{moves}</ul>"
        '<p class="legend"><span><i class="stage1"></i>warm-up</span><span><i class="stage2"></i>'
        'backward-skipping</span><span><i class="stage3"></i>forward-skipping</span></p>'
        '<div class="charts">'
        + chart(
            "Realised rates",
            [
                Series("trained", rates["trained"], PARTS["train"]),
                Series("scored", rates["scored"], PARTS["score"]),
            ],
            x,
            "share of what was drawn",
            percent=True,
            shades=shades,
            zero=True,
        )
        + chart(
            "Mean loss of what was revealed",
            [Series("loss", of("mean_loss"), COLORS[2])],
            x,
            "loss",
            shades=shades,
            zero=True,
        )
        + chart(
            "Predictor, judged before it learns",
            [
                Series("AUC (sizes above the mean)", of("auc"), COLORS[0]),
                Series("calibration (1 is right)", of("calibration"), COLORS[1]),
                Series("calibration on the audited", of("audit"), COLORS[3]),
            ],
            x,
            "",
            shades=shades,
            zero=True,
        )
        + chart(
            "Threshold: from this size on everything is kept",
            [Series("threshold", of("threshold"), COLORS[5 % len(COLORS)])],
            x,
            "size",
            shades=shades,
            zero=True,
        )
        + chart(
            "Concentration of sizes: 1 is all alike",
            [Series("concentration", of("concentration"), COLORS[4])],
            x,
            "",
            percent=True,
            shades=shades,
            zero=True,
        )
        + "</div>"
    )


# ---- single examples


def _examples(record: Record, folder: Path, texts: Texts) -> str:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / EXAMPLES).to_pylist()
    revealed = [r for r in rows if r["loss"] is not None]
    skipped = [r for r in rows if r["verdict"] == "skipped-forward" and r["predicted"] is not None]
    late = [r for r in revealed[len(revealed) // 2 :] if r["loss"] > 2.0]
    lists = (
        (
            "Skipped as easiest",
            "never scored: the predictor expected the smallest sizes",
            sorted(skipped, key=lambda r: r["predicted"])[:LISTED],
            "predicted",
        ),
        (
            "Hardest",
            "the highest losses when first met",
            sorted(revealed, key=lambda r: -r["loss"])[:LISTED],
            "loss",
        ),
        (
            "Most suspicious",
            "late in the run, and still given less than 14 % for their label: "
            "probable label errors",
            sorted(late, key=lambda r: -r["loss"])[:LISTED],
            "loss",
        ),
    )
    out = [
        f"<section><h2>Examples of {escape(record['name'])}, seed {record['seed']}</h2>"
        '<div class="charts">',
        histogram("Losses revealed", [r["loss"] for r in revealed], "loss"),
        histogram(
            "Sizes predicted",
            [r["predicted"] for r in rows if r["predicted"] is not None],
            "predicted size",
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


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>finesieve report</title>
<style>
:root { --ink:#1c1917; --soft:#57534e; --line:#e7e5e4; --paper:#fafaf9; --card:#fff;
  --s1:#f1f5f9; --s2:#fef3c7; --s3:#d1fae5; --bar:#0f766e; }
@media (prefers-color-scheme: dark) { :root { --ink:#f5f5f4; --soft:#a8a29e; --line:#44403c;
  --paper:#1c1917; --card:#292524; --s1:#1e293b; --s2:#451a03; --s3:#022c22; --bar:#2dd4bf; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
header, section { max-width: 1180px; margin: 0 auto; padding: 16px 20px; }
h1 { font-size: 1.7rem; margin: 12px 0 4px; } h2 { font-size: 1.35rem; margin: 20px 0 8px; }
h3 { font-size: 1.05rem; margin: 24px 0 4px; }
header p { color: var(--soft); } p.verdict { color: var(--ink); font-size: 1.1rem;
  border-left: 4px solid var(--bar); padding-left: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th { color: var(--soft); font-weight: 600; white-space: normal;
  vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; }
.better { color: #15803d; font-weight: 600; } .worse { color: #dc2626; font-weight: 600; }
.tie { color: var(--soft); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 16px; margin: 16px 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px; min-width: 0; } figure.wide { grid-column: 1 / -1; }
figcaption { font-weight: 600; margin-bottom: 6px; } svg { width: 100%; height: auto; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 13px; }
.axis { fill: var(--soft); font-size: 14px; } .bar { fill: var(--bar); }
rect.stage1, i.stage1 { fill: var(--s1); background: var(--s1); }
rect.stage2, i.stage2 { fill: var(--s2); background: var(--s2); }
rect.stage3, i.stage3 { fill: var(--s3); background: var(--s3); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 6px 0 0; font-size: .85rem;
  color: var(--soft); } .legend i { display: inline-block; width: 12px; height: 12px;
  border-radius: 3px; margin-right: 6px; border: 1px solid var(--line); }
.row { display: grid; grid-template-columns: minmax(90px, 22%) 1fr 84px; gap: 10px;
  align-items: center; margin: 6px 0; font-size: .9rem; } .track { display: flex; height: 18px; }
.track b { display: block; height: 100%; } .row em { font-style: normal; text-align: right;
  font-variant-numeric: tabular-nums; }
@media (max-width: 600px) { .tick { font-size: 19px; } .axis { font-size: 20px; } }
.none { color: var(--soft); }
ol, ul { padding-left: 22px; } li { margin: 4px 0; overflow-wrap: anywhere; }
code { background: var(--line); border-radius: 4px; padding: 1px 5px; }
</style></head><body>
{{body}}
</body></html>
"""
