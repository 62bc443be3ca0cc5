"""README and docs: every Python block runs, every table is the committed results'."""

from __future__ import annotations

import difflib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import write_tables
from finesieve.cli.main import parser

from .forked import python
from .tiny import books, runs_with_one_line_more, side_by_side

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{i}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S))
]


LIGHTNINGS_OWN = (
    "`isinstance(treespec, LeafSpec)` is deprecated",
    "The 'train_dataloader' does not have many workers",
)  # warnings


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str) -> None:
    ignored: tuple[str, ...] = ()
    if "lightning" in block:
        pytest.importorskip("lightning")
        ignored = tuple(map(re.escape, LIGHTNINGS_OWN))
    done = python(block, strict=True, ignored=ignored)
    assert done.returncode == 0, done.stderr
    if "sieve.moves" in block:
        assert "concentrated enough" in done.stdout


def test_the_diff_is_the_change_it_claims() -> None:
    """Applied to a plain loop the diff gives a loop that runs, and the plain one runs too."""
    diff = re.search(r"```diff\n(.*?)```", README, re.S).group(1)
    lines = diff.splitlines()
    before = "\n".join(x[2:] for x in lines if not x.startswith("+"))
    after = "\n".join(x[2:] for x in lines if not x.startswith("-"))
    prelude = """
import torch
from types import SimpleNamespace
from torch.nn import functional as F
from finesieve import Sieve, inputs, scores
from tests.conftest import Bag, make_batches
class Net(Bag):
    def forward(self, *given, **named):
        return SimpleNamespace(logits=super().forward(*given, **named))
model, data, loader = Net(), range(200), make_batches(200)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
    for loop in (before, after):
        done = python(prelude + loop)
        assert done.returncode == 0, done.stderr


def test_the_tables_are_made_of_the_results() -> None:
    for page, text in write_tables.pages().items():
        assert page.read_text(encoding="utf-8") == text
    for suite in write_tables.SUITES:
        for record in write_tables.records_of(suite):
            script = f"python benchmarks/{suite}.py "
            assert record["command"].startswith(
                script if suite in ("tasks", "tricks") else "finesieve bench "
            )


def test_commands_in_the_readme_parse() -> None:
    found = 0
    for block in re.findall(r"```sh\n(.*?)```", README, re.S):
        for line in block.splitlines():
            if line.startswith("finesieve "):
                parser().parse_args(line.split()[1:])
                found += 1
    assert found >= 2


@pytest.mark.parametrize(
    ("name", "changed"),
    [("plain_loop", 3), ("accelerate_loop", 3), ("fabric_loop", 4), ("lightning_trainer", 7)],
)
def test_loops_differ_by_the_sieve_alone(docstring_cache: Path, name: str, changed: int) -> None:
    """By so many lines, and one more where a schedule follows the stream; with gates still open the
    loss is the plain one's, to the last digit printed."""
    if name in ("fabric_loop", "lightning_trainer"):
        pytest.importorskip("lightning")
    pair = [ROOT / "examples" / f"{name}{end}.py" for end in ("", "_sieve")]
    said = [lines[-1] for lines in side_by_side(*([str(x), "--limit", "96"] for x in pair))]
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


def test_the_trainer_example_differs_by_one_line(docstring_cache: Path, tmp_path: Path) -> None:
    runs_with_one_line_more("trainer.py", tmp_path)


REASONS = {  # what a move to a stage is said to be for
    1: "skipping does not pay now: it costs .* of plain training",
    2: "sizes are concentrated enough .*|the predictor has degraded: .*",
    3: "sizes are concentrated enough .*|the predictor has proved itself: .*",
}

PRICE = re.compile(r"the same information costs ([0-9.]+) of plain training")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["plain_loop_sieve.py"], ["trainer.py", "--sieve"]], ids=" ".join
)
def test_gates_close_by_themselves_in_the_examples(
    docstring_cache: Path, tmp_path: Path, command: list[str]
) -> None:
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
    assert counts["yielded"] >= closed > 1000
    assert max(counts["scored"], counts["decided"], counts["dropped"]) <= 6000 - closed
    if moves:
        assert float(PRICE.search(moves[0]["reason"])[1]) < 1
        assert min(counts["scored"], counts["dropped"]) > 0


CLOSED = """
import runpy, sys
from finesieve.methods.recipes import Adaptive, Manual
def by_hand(recipe, seed=0):
    starts = {2: 0.2, 3: 0.4}
    return Manual(starts, cost_ratio=0.3, predictor_bits=12, train=0.3, score=0.6).build(seed)
Adaptive.build = by_hand
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


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
    docstring_cache: Path, tmp_path: Path, command: list[str]
) -> None:
    """Its weighted path, with gates closed at fixed places: up to stage 3, and all in the books."""
    script, *more = command
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, str(ROOT / "examples" / script), "--limit", "960", *more],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    moves, counts = books(done.stdout.splitlines())
    assert [m["stage"] for m in moves] == [1, 2, 3]
    assert counts["bad"] == 0
    assert counts["drawn"] == counts["yielded"] + counts["dropped"]
    assert 0 < counts["scored"] < counts["drawn"]
    assert counts["yielded"] < 0.8 * counts["drawn"]
    said = re.search(r"loss ([0-9.]+)", done.stdout.splitlines()[-1])
    assert said, done.stdout
    assert math.isfinite(float(said[1]))


def test_the_versions_are_those_that_are_pinned() -> None:
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    for column, name in ((3, "constraints-lowest.txt"), (4, "constraints.txt")):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pinned = dict(line.split("==") for line in lines)
        rows = [row.split("|") for row in re.findall(r"^\| [a-z].*$", page, re.M)][1:]
        assert len(rows) >= 12
        for row in rows:
            assert pinned[row[1].strip()] == row[column].strip(), (name, row[1])
