"""The insights as one self-contained HTML page: sentences first, then charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.insight.charts import Series, chart
from finesieve.insight.curves import TIMES, Curve

SHOWN, TEXT = 500, 400  # rows a table, characters a text; the exports have all
PRINTED = 50  # rows a table on paper
_TITLES = {
    "row": "row",
    "p_given": "p (given)",
    "p_suggested": "p (suggested)",
    "contradicting_row": "nearest row so labelled",
    "contradicting_text": "its text",
    "wrong_labels": "labels estimated wrong",
    "wrong_labels_at_most": "at most (95 %)",
    "error": "classified wrongly, unseen",
    "gradient_of_easiest_half": "share of the gradient in its easiest half",
    "never_learned": "never learned",
}
_LEFT_OUT = ("confirmed",)
_PERCENT = ("error", "gradient_of_easiest_half")


def page(
    name: str,
    sentences: Sequence[str],
    how: str,
    tables: Mapping[str, Mapping[str, Any]],
    curve: Curve | None,
    sizes: npt.NDArray[np.float64] | None,
    rows: Mapping[str, int] | None = None,
) -> str:
    """Returns the page; whatever the data hold is escaped.

    Args:
        name: of the data.
        sentences: what comes first.
        how: how the rows were judged.
        tables: by the names of the properties of `Insights`.
        curve: error by the number of rows. sizes: float[n], gradient norms.
        rows: of tables of which only the first ones are given, how many there are.
    """
    title = f"What {name or 'the data'} tells"
    sections = [
        "<header><h1>" + escape(title) + "</h1><ul>",
        *(f"<li>{escape(sentence)}</li>" for sentence in sentences),
        "</ul>" + (f'<p class="soft">{escape(how)}</p>' if how else "") + "</header>",
        _section(
            "issues",
            "Labels that look wrong",
            "The worst first. Nothing is dropped by itself: write <code>yes</code> into the column "
            "<code>confirmed</code> of issues.csv, and <code>finesieve clean</code> leaves these "
            "rows out.",
            tables["issues"],
        ),
        _section(
            "answers",
            "Rows to look at before training",
            "Nothing is learned from a row without a target. Where one is cut, or ends without an "
            "end-of-sequence token, the model learns to break off, or not to stop.",
            tables["answers"],
        ),
        _section("confusion", "Which labels are mixed up", "", tables["confusion"]),
        _section("classes", "Class by class", "", tables["classes"]),
        _section(
            "repeats",
            "Repeats",
            "Groups in which labels disagree first. Near repeats share at least 70 % of their "
            "five-letter runs.",
            tables["repeats"],
            (rows or {}).get("repeats"),
        ),
        _charts(curve, sizes),
        _section(
            "hard",
            "The hardest rows",
            "Large losses or gradients, and yet not among the rows above.",
            tables["hard"],
        ),
        _section("texts", "Empty and cut texts", "", tables["texts"], (rows or {}).get("texts")),
    ]
    made = PAGE.replace("{{hidden}}", str(PRINTED + 1)).replace("{{title}}", escape(title))
    return made.replace("{{body}}", "\n".join(sections))


def _section(
    name: str, title: str, note: str, table: Mapping[str, Any], rows: int | None = None
) -> str:
    rows = len(next(iter(table.values()), ())) if rows is None else rows
    if rows == 0:
        return ""
    heads = [key for key in table if key not in _LEFT_OUT]
    lines = []
    for values in islice(zip(*(table[key] for key in heads), strict=True), SHOWN):
        cells = "".join(
            f'<td data-name="{escape(_name(key))}"{_sort_value(value)}>{_cell(key, value)}</td>'
            for key, value in zip(heads, values, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    more = f" The first {SHOWN} of {rows:,} rows; the exports have all." if rows > SHOWN else ""
    told = f'<p class="soft">{note}{more}</p>' if note or more else ""
    if rows > PRINTED:
        told += f'<p class="soft printed">The first {PRINTED} rows are printed.</p>'
    head = "".join(
        f'<th scope="col"><button type="button">{escape(_name(key))}</button></th>' for key in heads
    )
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2>{told}'
        f'<label class="filter">Filter <input type="search" placeholder="a word, a class, a row '
        f'number"></label> <output></output><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _name(key: str) -> str:
    return _TITLES.get(key, key.replace("_", " "))


def _sort_value(value: Any) -> str:
    return f' data-value="{value}"' if isinstance(value, (int, float)) else ""


def _cell(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if key in _PERCENT else f"{value:.3f}"
    text = "" if value is None else str(value)
    return escape(text if len(text) <= TEXT else text[: TEXT - 1] + "…")


def _charts(curve: Curve | None, sizes: npt.NDArray[np.float64] | None) -> str:
    parts = []
    if curve is not None:
        points = list(zip(curve.sizes.tolist(), curve.errors.tolist(), strict=True))
        last = curve.sizes[-1]
        ahead = [
            (curve.base * times, curve.now + curve.forecast[times].value)
            for times in TIMES
            if times > 1
        ]
        bounds = [
            Series(
                name,
                [(last, curve.now)]
                + [
                    (curve.base * times, max(0.0, curve.now + getattr(curve.forecast[times], name)))
                    for times in TIMES
                    if times > 1
                ],
                "#94a3b8",
            )
            for name in ("low", "high")
        ]
        series = [Series("measured", points, "#0f766e")]
        if np.isfinite(ahead[0][1]):
            series += [Series("forecast", [(last, curve.now), *ahead], "#c2410c"), *bounds]
        parts.append(
            chart(
                "Share of unseen rows that are classified wrongly",
                series,
                "rows learned from",
                "",
                note="A head judges rows that it was not fitted to. Low and high bound the "
                "forecast: 95 % of such intervals should hold what comes.",
            )
        )
    if sizes is not None:
        ordered = np.cumsum(np.sort(sizes))
        total = float(ordered[-1]) or 1.0
        places = np.linspace(0, len(ordered) - 1, 60).astype(int)
        points = [((i + 1) / len(ordered), float(ordered[i]) / total) for i in places]
        parts.append(
            chart(
                "Share of the gradient that the easiest rows carry",
                [Series("share", [(0.0, 0.0), *points], "#4f46e5")],
                "share of the rows, easiest first",
                "",
                percent=True,
                zero=True,
                note="A row's gradient says how much training on it would change the model. Where "
                "the curve stays low, rows teach it little that is new.",
            )
        )
    if not parts:
        return ""
    title = "How the gradient is spread" if curve is None else "How much is enough"
    return (
        f'<section id="enough"><h2>{title}</h2><div class="charts">'
        + "".join(parts)
        + "</div></section>"
    )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<style>
:root { color-scheme: light dark; --ink:#1c1917; --soft:#57534e; --line:#e7e5e4; --paper:#fafaf9;
  --card:#fff; --bar:#0f766e; }
@media (prefers-color-scheme: dark) { :root { --ink:#f5f5f4; --soft:#a8a29e; --line:#44403c;
  --paper:#1c1917; --card:#292524; --bar:#2dd4bf; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
header, section { max-width: 1180px; margin: 0 auto; padding: 12px 20px; }
h1 { font-size: 1.6rem; margin: 12px 0 4px; } h2 { font-size: 1.25rem; margin: 20px 0 4px; }
header ul { font-size: 1.08rem; border-left: 4px solid var(--bar); margin: 12px 0;
  padding: 2px 0 2px 30px; } .soft { color: var(--soft); margin: 4px 0 8px; }
li { overflow-wrap: anywhere; }
code { background: var(--line); border-radius: 4px; padding: 1px 5px; }
.filter { color: var(--soft); } input { font: inherit; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; padding: 4px 8px; min-width: 220px; }
output { color: var(--soft); margin-left: 8px; }
.scroll { overflow: auto; max-height: 70vh; margin-top: 8px; border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; background: var(--card); }
th { position: sticky; top: 0; background: var(--card); text-align: left; vertical-align: bottom; }
th button { font: inherit; font-weight: 600; color: var(--soft); background: none; border: 0;
  padding: 6px 10px; text-align: left; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td { padding: 6px 10px; border-top: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
td[data-name=text], td[data-name="its text"] { min-width: 180px; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 16px; margin: 12px 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px; min-width: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 13px; }
.axis { fill: var(--soft); font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 6px 0 0; font-size: .85rem;
  color: var(--soft); } .legend i { display: inline-block; width: 12px; height: 12px;
  border-radius: 3px; margin-right: 6px; }
@media (max-width: 640px) {
  header, section { padding: 10px 12px; } .tick { font-size: 19px; } .axis { font-size: 20px; }
  .scroll { max-height: none; border: 0; } thead { display: none; }
  table { background: none; } tr { display: block; background: var(--card); margin: 0 0 10px;
    border: 1px solid var(--line); border-radius: 8px; padding: 4px 0; }
  td { display: block; border: 0; padding: 2px 10px; }
  td:empty { display: none; }
  td::before { content: attr(data-name) ": "; color: var(--soft); } }
.printed { display: none; }
@page { margin: 14mm 12mm; }
@media print {
  :root { color-scheme: light; --ink:#000; --soft:#44403c; --line:#d6d3d1; --paper:#fff;
    --card:#fff; }
  html { font-size: 11px; } body { background: #fff; font-size: 1rem; }
  header, section { max-width: none; padding: 0; } h2 { margin-top: 18px; }
  h2, .soft, .printed { break-after: avoid; } .printed { display: block; }
  .filter, output { display: none; }
  .scroll { max-height: none; overflow: visible; border: 0; }
  thead { display: table-header-group; break-inside: avoid; } th { position: static; }
  th { padding: 4px 6px; } th button { display: contents; } td { padding: 3px 6px; }
  td[data-name=text], td[data-name="its text"] { min-width: 120px; }
  tr, figure, li, #confusion, #enough { break-inside: avoid; }
  tbody tr:nth-child(n+{{hidden}}) { display: none; }
  .charts { grid-template-columns: 1fr 1fr; } figure { border: 0; padding: 4px; }
  * { print-color-adjust: exact; }
}
</style></head><body>
{{body}}
<script>
for (const section of document.querySelectorAll("section")) {
  const body = section.querySelector("tbody"); if (!body) continue;
  const rows = [...body.rows], shown = section.querySelector("output");
  section.querySelector("input").addEventListener("input", event => {
    const word = event.target.value.trim().toLowerCase(); let left = 0;
    for (const row of rows) {
      const hit = !word || row.textContent.toLowerCase().includes(word);
      row.hidden = !hit; row.style.display = hit ? "" : "none"; left += hit;
    }
    shown.textContent = word ? left + " of " + rows.length + " rows" : "";
  });
  section.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of section.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      rows.sort((a, b) => {
        const x = key(a), y = key(b), numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (down ? -1 : 1) * (numbers ? x - y : x.localeCompare(y));
      });
      body.append(...rows);
    });
  });
}
</script>
</body></html>
"""
