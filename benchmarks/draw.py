"""Draw the pictures of the documentation from the committed results.

    python benchmarks/draw.py

docs/explanation/stages.svg: what a run scored and trained on along its stream, stage by stage.
docs/explanation/frontier.svg: held-out loss over the share of plain training's time, finesieve and
random, once the suite `frontier` has been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.results import Record, read_all
from finesieve.insight.charts import BOTTOM, HEIGHT, TOP, WIDTH, Frame

ROOT = Path(__file__).parent.parent
COLORS = {"finesieve": "#0b6e4f", RIVAL: "#c0392b", "full": "#555555"}
NAMES = {"finesieve": "finesieve", RIVAL: "random subset of the same time", "full": "everything"}
STYLE = (
    "text{font-family:sans-serif;fill:#444}.grid{stroke:#ddd}.tick{font-size:13px}"
    ".axis{font-size:14px}.title{font-size:16px;font-weight:600}"
)
SHADES = {1: "#f4f4f4", 2: "#fdf3d8", 3: "#e4f2ec"}
STREAM_OF = ("one-epoch", "clickbait", 0)  # suite, set and seed of the first picture


def page(panels: Sequence[tuple[str, Frame]], keys: Sequence[tuple[str, str]]) -> str:
    """Panels side by side, two a row, under one line of colors and names."""
    rows, head = -(-len(panels) // 2), 34
    wide, high = WIDTH * min(2, len(panels)), rows * (HEIGHT + 30) + head
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        f'font-size="14"><style>{STYLE}</style><rect width="{wide}" height="{high}" '
        'fill="white"/>'
    ]
    x = 24.0
    for name, color in keys:
        parts.append(
            f'<rect x="{x}" y="11" width="14" height="14" fill="{color}"/>'
            f'<text x="{x + 20}" y="23">{escape(name)}</text>'
        )
        x += 44 + 7.6 * len(name)
    for i, (title, frame) in enumerate(panels):
        at = f"{WIDTH * (i % 2)},{head + (HEIGHT + 30) * (i // 2)}"
        parts.append(
            f'<g transform="translate({at})">'
            f'<text class="title" x="{WIDTH / 2}" y="18" text-anchor="middle">'
            f'{escape(title)}</text><g transform="translate(0,26)">'
            f"{''.join(frame.parts)}</g></g>"
        )
    return "".join(parts) + "</svg>\n"


def line(frame: Frame, points: Sequence[tuple[float, float]], color: str) -> None:
    path = " L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
    frame.parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')


# ---- a run along its stream


def stages(record: Record) -> str:
    """Shares of each stretch of the stream that were scored and trained on."""
    curve = [{"drawn": 0, "scored": 0, "trained": 0}, *record["curve"]]
    total = record["examples"]["drawn"]
    shares: dict[str, list[tuple[float, float]]] = {"scored": [], "trained": []}
    every = 3  # points a stretch: a group of batches is released at once
    for a, b in pairwise(curve[::every]):
        if b["drawn"] > a["drawn"]:
            at = (a["drawn"] + b["drawn"]) / 2 / total
            for name, points in shares.items():
                points.append((at, min(1.2, (b[name] - a[name]) / (b["drawn"] - a["drawn"]))))
    frame = Frame(
        [0.0, 1.0],
        [0.0, 1.0],
        "share of the stream",
        "of the examples drawn",
        percent=True,
        zero=True,
    )
    moves = [*record["stages"], {"stage": 0, "from_example": total}]
    for i, (now, after) in enumerate(pairwise(moves)):
        left, right = (frame.x(m["from_example"] / total) for m in (now, after))
        label = f"stage {now['stage']}" if right - left > 60 else str(now["stage"])
        frame.parts.insert(
            i,
            f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}" fill="{SHADES[now["stage"]]}"/>'
            f'<text class="tick" x="{(left + right) / 2:.1f}" y="{TOP + 14}" '
            f'text-anchor="middle">{label}</text>',
        )
    keys = (("scored", "#b7791f"), ("trained", COLORS["finesieve"]))
    for name, color in keys:
        line(frame, shares[name], color)
    title = f"{record['set']}, seed {record['seed']}: {total:,} examples"
    return page(
        [(title, frame)], [("scored without gradient", keys[0][1]), ("trained on", keys[1][1])]
    )


# ---- the frontier


def frontier(records: Sequence[Record]) -> str:
    """A panel a set; the sets of the suite `frontier` are named SET-PERCENT."""
    sets = sorted({r["set"].rpartition("-")[0] for r in records if r["suite"] == "frontier"})
    panels = []
    for name in sets:
        of_set = [r for r in records if r["set"] in (name, *(f"{name}-{b}" for b in (10, 20)))]
        plain = {
            s: fmean(r["seconds"]["total"] for r in of_set if r["set"] == s and r["name"] == "full")
            for s in {r["set"] for r in of_set}
        }
        points: dict[str, list[tuple[float, float]]] = {m: [] for m in COLORS}
        for method, found in points.items():
            for s in plain:
                runs = [r for r in of_set if r["set"] == s and r["name"] == method]
                if runs and (method != "full" or s == name):
                    time = fmean(r["seconds"]["total"] for r in runs) / plain[s]
                    found.append((time, fmean(r["eval"]["loss"] for r in runs)))
            found.sort()
        every = [p for found in points.values() for p in found]
        frame = Frame(
            [0.0, *(x for x, _ in every)],
            [y for _, y in every],
            "time over that of plain training",
            "held-out loss",
            log=True,
        )
        for method, found in points.items():
            if len(found) > 1:
                line(frame, found, COLORS[method])
            for x, y in found:
                frame.parts.append(
                    f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="5" '
                    f'fill="{COLORS[method]}"/>'
                )
        panels.append((name, frame))
    return page(panels, [(NAMES[m], color) for m, color in COLORS.items()])


def claims(*suites: str) -> list[Record]:
    """The committed records of the claim sets of these suites."""
    return [
        r
        for suite in suites
        for r in read_all(ROOT / "results" / suite)[0]
        if r["role"] == "claim" and "failed" not in r
    ]


def main() -> None:
    suite, name, seed = STREAM_OF
    shown = next(
        r
        for r in claims(suite)
        if r["name"] == "finesieve" and (r["set"], r["seed"]) == (name, seed)
    )
    folder = ROOT / "docs" / "explanation"
    (folder / "stages.svg").write_text(stages(shown), encoding="utf-8")
    # Both without the fitted head.
    budgets = claims("frontier", "research/one-epoch-random-head")
    (folder / "frontier.svg").write_text(frontier(budgets), encoding="utf-8")


if __name__ == "__main__":
    main()
