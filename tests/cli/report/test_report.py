"""The report: self-contained, whole for one run and for many, drawn by a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.report.one_run import over_time
from finesieve.cli.report.report import report
from finesieve.cli.report.texts import texts_of
from finesieve.cli.results import write_record
from finesieve.insight import charts
from tests.browser import needs_browser, seen_by_browser
from tests.cli.comparing.suites import record


class Page(HTMLParser):
    """Counts elements, and holds on to what would need a network or is not closed."""

    VOID = ("meta", "line", "rect", "path", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.outside += [v or "" for k, v in attrs if k in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made(page: Path) -> tuple[str, Page]:
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.outside == []
    assert "url(" not in text
    shown = re.sub(r"<li>.*?</li>", "", text, flags=re.S)  # without examples: anybody's words
    assert not re.search(r"\bnan\b|\binf\b|None", shown)
    return text, parsed


def test_one_real_run(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert main(["report", str(finished), "--output", str(page)]) == 0
    text, parsed = made(page)
    assert parsed.count["svg"] == 7  # 5 over the stream, 2 of examples
    for word in (
        "fine-tuned",
        "always naming the most frequent class",
        "The weakest class is",
        "(`sieve_saved`)",
        "Learning curve",
        "Each class",
        "Trained and scored",
        "Skipped as easiest",
        "Hardest",
        "finesieve inspect",
        "Where the seconds went",
        "as set",
    ):
        assert word in text
    assert re.search(r"<li><code>[\d.]+</code> row \d+ \[(torch|sympy)\] ", text)
    assert parsed.count["path"] >= 4


def test_texts_of_data_that_have_changed_are_left_out(tmp_path: Path) -> None:
    """Sorted, cut, edited or removed: other examples' texts are never shown as this run's."""
    path = tmp_path / "train.csv"
    lines = [f"text {'x' * (9 - i)},{i % 2}\n" for i in range(9)]

    def write(rows: list[str]) -> None:
        path.write_text("text,label\n" + "".join(rows))

    write(lines)
    run: dict[str, Any] = {
        "config": {"train": str(path), "text": None, "text_pair": None, "label": None},
        "data": {"digest": load(str(path)).digest},
    }
    told = texts_of(run, {})
    assert (told.of(8), told.missing) == ("[0] text x", "")
    edited = [lines[0].replace("x", "y"), *lines[1:]]
    for rows in (sorted(lines), lines[:5], edited, [*lines, "more,1\n"]):
        write(rows)
        told = texts_of(run, {})
        assert told.of(8) == ""
        assert "has changed since the run" in told.missing
    path.unlink()
    assert "cannot be read from here (no file" in texts_of(run, {}).missing
    assert "did not keep a digest" in texts_of({**run, "data": None}, {}).missing


def bench_folder(folder: Path) -> Path:
    dice = np.random.default_rng(0)
    kind = {
        "config": {"model": "m", "precision": "fp32", "epochs": 1},
        "hardware": {"name": "cpu", "threads": 1},
        "versions": {"torch": "2", "finesieve": "0"},
    }
    for name, shift in (("full", 0.0), ("finesieve", 0.1), (RIVAL, 0.3)):
        for seed in range(3):
            made = record(name, seed, dice.random(80) + shift, set="some <b>set</b>")
            seconds = {"train": 6.0, "score": 3.0, "decide": 0.5, "data": 0.5, "total": 10.0}
            moves = [{"stage": s, "from_example": 20 * s - 20, "reason": "r & r"} for s in (1, 2)]
            write_record(
                folder / f"{name}{seed}.json", {**made, "seconds": seconds, "stages": moves, **kind}
            )
    return folder


def test_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bench_folder(tmp_path / "results")
    (folder / "half.json").write_text('{"format": 1')
    page = tmp_path / "report.html"
    assert main(["report", str(folder), "--output", str(page)]) == 0
    assert "half-written" in capsys.readouterr().err
    text, parsed = made(page)
    assert "some &lt;b&gt;set&lt;/b&gt;" in text
    assert parsed.count["circle"] == 18
    assert "a gain on this set" in text
    assert "below 0 is better" in text
    assert "script" not in parsed.count


def test_what_cannot_be_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no file or folder" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("{")
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 2
    assert "half-written or of another version" in capsys.readouterr().err
    assert (
        main(
            [
                "report",
                str(bench_folder(tmp_path / "b")),
                "--output",
                str(tmp_path / "no" / "r.html"),
            ]
        )
        == 2
    )
    assert "no folder" in capsys.readouterr().err


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.23), (3, 4711), (-2, 2), (5, 5.0001)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= t <= high * (1 + 1e-9) + 1e-9 for t in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])


def test_values_that_differ_by_rounding_alone_are_drawn_as_one() -> None:
    """They were a range of which no step leads from one end to the other: it never ended."""
    low, high = 0.65 - 1e-16, 0.65
    assert low < high
    assert len(charts.ticks(low, high)) == 1
    assert len(charts.ticks(1e9, 1e9 + 1e-6)) <= 6
    ends = (1.0, high), (2.0, low)
    drawn = charts.chart("t", [charts.Series("a", ends, "red")], "x", "y")
    path = re.search(r'<path d="M[\d.]+ ([\d.]+) L[\d.]+ ([\d.]+)"', drawn)
    assert path
    assert path[1] == path[2]


def test_dots_have_names_and_one_far_away_does_not_press_the_others_together() -> None:
    near = [(float(i), 0.1 + 0.001 * i) for i in range(6)]
    alone = charts.chart("t", [charts.Series("a", near, "red", "dots")], "x", "y")
    far = charts.Series("b & c", [(2.0, 9.9)], "blue", "dots", ["9.9"])
    both = charts.chart("t", [charts.Series("a", near, "red", "dots"), far], "x", "y")
    ys = [float(y) for y in re.findall(r'cy="([\d.]+)" r="6" fill="red"', both)]
    assert max(ys) - min(ys) > 100  # of 300
    assert ys == [float(y) for y in re.findall(r'cy="([\d.]+)"', alone)]
    assert "outside: 9.9" in both
    assert re.search(r'class="name"[^>]*>a</text>', both)
    assert "b &amp; c</span>" in both  # in the legend; the dot outside has a label of its own


def test_the_curve_of_plain_training_is_shown_too() -> None:
    run = record("full", 0, np.linspace(0.1, 0.9, 50))
    run |= {"stages": [{"stage": 1}], "config": {"model": "m", "epochs": 1, "lr": 1e-4}}
    run["curve"] = [{"elapsed": float(i), "train_loss": 1.0 / i} for i in range(1, 9)]
    shown = over_time(run)
    assert "Learning curve" in shown
    assert "<path" in shown
    assert "trained on 30% of the examples drawn" in shown
    assert "Threshold" not in shown  # no gate ever closed


def test_a_stage_that_begins_after_the_last_example_is_told_to_have_changed_nothing() -> None:
    run = record("finesieve", 0, np.linspace(0.1, 0.9, 50))
    run["config"] = {"model": "m", "epochs": 1, "lr": 1e-4}
    drawn = run["examples"]["drawn"]
    for begin, said in ((drawn, True), (drawn - 1, False)):
        moves = [(1, 0, "start"), (2, begin, "cheaper")]
        run["stages"] = [{"stage": s, "from_example": n, "reason": r} for s, n, r in moves]
        assert ("cheaper (after the last example" in over_time(run)) == said
        assert "start (after" not in over_time(run)


def test_an_empty_chart_says_so() -> None:
    assert "nothing recorded" in charts.chart("t", [charts.Series("a", [], "red")], "x", "y")


def test_a_line_of_one_point_is_seen() -> None:
    one = charts.chart("t", [charts.Series("a", [(1.0, 2.0)], "red")], "x", "y")
    again = charts.chart("t", [charts.Series("a", [(1.0, 2.0)] * 3, "red")], "x", "y")
    assert again == one  # a path of no length would not be seen either
    assert one.count("<circle") == 1
    assert "nothing recorded" in charts.histogram("t", [float("nan")], "x")


@needs_browser
def test_a_browser_draws_it_without_complaint(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report([str(finished)], str(page))
    script = (
        "addEventListener('load', () => { const s = [...document.querySelectorAll('svg')]; "
        "const wide = document.documentElement.scrollWidth; document.title = "
        "JSON.stringify({n: s.length, flat: s.filter(e => e.getBoundingClientRect().height "
        "< 50).length, wide: wide, window: innerWidth}); });"
    )
    seen = seen_by_browser(page.read_text(encoding="utf-8"), script, tmp_path)
    assert seen["n"] == 7
    assert seen["flat"] == 0
    assert seen["wide"] <= seen["window"]  # a phone need not scroll sideways


def test_a_scale_of_powers_has_few_ticks_and_never_one_alone() -> None:
    assert charts.decades(-1.4, -1.04) == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.08, 0.09])
    assert charts.decades(-1.31, -0.2) == pytest.approx([0.05, 0.1, 0.2, 0.5])
    frame = charts.Frame([0, 1], [0.01, 1.0], "x", "y", log=True)
    middle = (frame.y(0.01) + frame.y(1.0)) / 2
    assert frame.y(0.1) == pytest.approx(middle)
