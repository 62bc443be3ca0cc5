"""The examples run, import the public API alone, and differ by as little as they claim."""

from __future__ import annotations

import ast
import difflib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finesieve import Adaptive, Manual, Method

from .tiny import books, runs_with_one_line_more, said_by

ROOT = Path(__file__).parent.parent
REASONS = {  # what a move to a stage is said to be for
    1: "skipping does not pay now: it costs .* of plain training",
    2: "sizes are concentrated enough .*|the predictor has degraded: .*",
    3: "sizes are concentrated enough .*|the predictor has proved itself: .*",
}
PRICE = re.compile(r"the same information costs ([0-9.]+) of plain training")


@pytest.fixture(autouse=True)
def head_start_off() -> None:
    """Readers have it on."""


@pytest.mark.parametrize(
    ("name", "changed"),
    [("plain_loop", 3), ("accelerate_loop", 3), ("fabric_loop", 4), ("lightning_trainer", 7)],
)
def test_loops_differ_by_the_sieve_alone(encoder: Path, name: str, changed: int) -> None:
    """By so many lines, and one more where a schedule follows the stream; with gates still open the
    loss is the plain one's, to the last digit printed."""
    if name in ("fabric_loop", "lightning_trainer"):
        pytest.importorskip("lightning")
    pair = [ROOT / "examples" / f"{name}{end}.py" for end in ("", "_sieve")]
    said = [said_by(script, "--limit", "96", "--model", str(encoder))[-1] for script in pair]
    assert said[0] == said[1]
    assert re.fullmatch(r"last loss [0-9.]+", said[0])
    plain, sieved = (
        [
            x
            for x in script.read_text().split('"""')[2].splitlines()
            if x and not x.startswith(("import", "from", "print", "accelerator.print"))
        ]
        for script in pair
    )
    new = [x for x in difflib.ndiff(plain, sieved) if x.startswith("+")]
    schedules = [x for x in new if "schedule" in x.lower()]
    assert len(schedules) == 1
    assert len(new) - len(schedules) == changed, new


def test_the_trainer_example_differs_by_one_line(tmp_path: Path) -> None:
    runs_with_one_line_more("trainer.py", tmp_path)


def test_examples_can_be_copied() -> None:
    """They import what the API reference documents, and nothing private."""
    pages = (ROOT / "docs" / "reference" / "api").glob("*.md")
    documented = "".join(page.read_text(encoding="utf-8") for page in pages)
    found = 0
    for script in (ROOT / "examples").glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("finesieve"):
                for one in node.names:
                    found += 1
                    assert f"{node.module}.{one.name}" in documented or (
                        f"`from {node.module} import {one.name}" in documented
                    ), (script.name, node.module, one.name)
    assert found >= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["plain_loop_sieve.py"], ["trainer.py", "--sieve"]], ids=" ".join
)
def test_gates_close_by_themselves_in_the_examples(tmp_path: Path, command: list[str]) -> None:
    """On real texts, where it pays by the costs measured here, and say so; else they stay open and
    nothing is spent on them. Every example is in the books once."""
    script, *more = command
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), "--limit", "6000", *more],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (start, *moves), counts = books(done.stdout.splitlines())
    assert start == {"stage": 1, "from_example": 0, "reason": "start"}
    for move in moves:
        assert re.fullmatch(REASONS[move["stage"]], move["reason"]), move
    assert counts["drawn"] == 6000 == counts["yielded"] + counts["dropped"]
    assert counts["bad"] == 0
    # Up to there everything is trained on and nothing scored: to the end where it never pays.
    closed = moves[0]["from_example"] if moves else 6000
    assert counts["yielded"] >= closed > 250  # sizes are known from 256 losses on
    assert max(counts["scored"], counts["decided"], counts["dropped"]) <= 6000 - closed
    if moves:
        assert float(PRICE.search(moves[0]["reason"])[1]) < 1
        assert min(counts["scored"], counts["dropped"]) > 0


def by_hand(recipe: Adaptive, seed: int = 0) -> Method:
    """Gates that close at fixed places, in place of those that find their own."""
    starts = {2: 0.2, 3: 0.4}
    return Manual(starts, cost_ratio=0.3, predictor_bits=12, train=0.3, score=0.6).build(seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["plain_loop_sieve.py"],
        ["accelerate_loop_sieve.py"],
        ["fabric_loop_sieve.py"],
        ["lightning_trainer_sieve.py"],
        *(
            [f"{name}.py", "--sieve"]
            for name in (
                "trainer",
                "sft",
                "lora",
                "preferences",
                "sentence_encoder",
                "setfit_intents",
            )
        ),
    ],
    ids=lambda command: command[0],
)
def test_every_example_trains_on_what_survives(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Its weighted path, with gates closed at fixed places: up to stage 3, and all in the books."""
    script, *more = command
    if script not in ("sft.py", "preferences.py"):  # which have a model of their own
        more += ["--model", str(encoder)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Adaptive, "build", by_hand)
    said = said_by(ROOT / "examples" / script, "--limit", "960", *more)
    moves, counts = books(said)
    assert [m["stage"] for m in moves] == [1, 2, 3]
    assert counts["bad"] == 0
    assert counts["drawn"] == counts["yielded"] + counts["dropped"]
    assert 0 < counts["scored"] < counts["drawn"]
    assert counts["yielded"] < 0.8 * counts["drawn"]
    loss = re.search(r"loss ([0-9.]+)", said[-1])
    assert loss, said[-1]
    assert math.isfinite(float(loss[1]))
