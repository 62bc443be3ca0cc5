"""README and docs: every code block runs, every link leads somewhere, every table is of results."""

from __future__ import annotations

import ast
import csv
import json
import math
import re
import shlex
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import write_tables
from finesieve.cli.main import main, parser

from .conftest import Bag, make_batches
from .tiny import bert, causal, tokenizer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MINILM = '"sentence-transformers/all-MiniLM-L6-v2"'
NEEDS = ("lightning", "peft", "accelerate", "transformers")  # optional packages
NOT_OURS = (
    r"Found \d+ module.s. in eval mode at the start of training",
    "'pin_memory' argument is set as true but no accelerator is found",
    "`is_gradient_checkpointing` is deprecated",
    "`isinstance.treespec, LeafSpec.` is deprecated",
    "The 'train_dataloader' does not have many workers",
)  # warnings of Lightning, PEFT and PyTorch


def blocks(page: Path, *kinds: str) -> list[str]:
    """The code blocks of these kinds, in the page's order."""
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```", page.read_text("utf-8"), re.S | re.M)
    return [textwrap.dedent(text) for kind, text in found if kind in kinds]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def head_start_off() -> None:
    """Readers have it on."""


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python", "py")], ids=named)
def test_python_blocks_run(
    page: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of a page one after another, as in a notebook; in a folder with a small train.csv."""
    code = "\n".join(blocks(page, "python", "py"))
    for name in NEEDS:
        if f"import {name}" in code or f"from {name}" in code:
            pytest.importorskip(name)
    lines = [f"w{i % 60} w{i % 7},{'even' if i % 2 else 'odd'}" for i in range(96)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    # What the pages that are read first leave to the reader: a trainer that is there already.
    names: dict[str, Any] = {"__name__": "__main__"}
    if "(trainer)" in code and "trainer =" not in code:
        names["trainer"] = a_trainer(tmp_path)
    with warnings.catch_warnings():
        for text in NOT_OURS:
            warnings.filterwarnings("ignore", text)
        exec(compile(code.replace(MINILM, repr(str(encoder))), named(page), "exec"), names)
    if "make_everything" in code:
        assert "concentrated enough" in capsys.readouterr().out


def a_trainer(folder: Path) -> Any:
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(str(folder), use_cpu=True, report_to=[])
    return Trainer(bert(), args, train_dataset=[{"input_ids": [4, 5], "labels": 0}])


def test_the_diff_is_the_change_it_claims() -> None:
    """Applied to a plain loop the diff gives a loop that runs, and the plain one runs too."""
    (diff,) = blocks(ROOT / "README.md", "diff")

    class Net(Bag):
        def forward(self, *given: Any, **named: Any) -> Any:
            return SimpleNamespace(logits=super().forward(*given, **named))

    ends = []
    for left_out in "+-":
        loop = "\n".join(x[2:] for x in diff.splitlines() if not x.startswith(left_out))
        import finesieve

        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = make_batches(200)
        names = {
            "finesieve": finesieve,
            "F": torch.nn.functional,
            "model": model,
            "optimizer": optimizer,
            "scheduler": torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 2 * len(loader)),
            "epochs": 2,
            "data": range(200),
            "loader": loader,
        }
        exec(loop, names)
        ends.append((names["loss"].item(), optimizer.param_groups[0]["lr"]))
    assert all(math.isfinite(loss) for loss, _ in ends)
    assert [rate for _, rate in ends] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_the_tables_are_made_of_the_results() -> None:
    for page, text in write_tables.pages().items():
        assert page.read_text(encoding="utf-8") == text
    for suite in write_tables.SUITES:
        for record in write_tables.records_of(suite):
            script = f"python benchmarks/{suite}.py "
            assert record["command"].startswith(
                script if suite in ("tasks", "tricks") else "finesieve bench "
            )


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 700


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "sh")], ids=named)
def test_commands_are_there(page: Path) -> None:
    """They parse; what they install is an extra; what they make or run exists."""
    extras = re.findall(r"^(\S+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        match words:
            case []:
                pass
            case ["finesieve", *rest]:
                parser().parse_args(rest)
            case ["make", target]:
                assert target in made
            case ["pip", "install", "."]:
                pass
            case ["pip", "install", what]:
                assert set(what.removeprefix(".[").removesuffix("]").split(",")) <= {*extras}
            case ["python", script, *_]:
                assert (ROOT / script).exists()
            case ["torchrun", "--nproc-per-node", "2", "train.py"]:
                pass
            case _:
                pytest.fail(f"{named(page)}: nothing tests the command {line!r}")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "finesieve " in "".join(blocks(p, "sh"))], ids=named
)
def test_commands_run(
    page: Path,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of a page one after another, on small files, with a tiny encoder and one seed."""
    for name, rows in (("train", 160), ("test", 40)):
        lines = [f"w{i % 60} w{i % 7},{'even' if i % 2 else 'odd'}" for i in range(rows)]
        text = "\n".join(["text,label", *lines])
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    for name, rows in (("pairs", 160), ("pairs-test", 40)):
        lines = [f"w{i % 60} w{i % 7},w{i % 5},{i % 7 / 2}" for i in range(rows)]
        text = "\n".join(["text_a,text_b,score", *lines])
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
        lines = [f"w{i % 60} w{i % 7},{('a|b', 'b', 'c|a')[i % 3]}" for i in range(rows)]
        text = "\n".join(["text,labels", *lines])
        (tmp_path / f"{name.replace('pairs', 'topics')}.csv").write_text(text, encoding="utf-8")
        words = [{"tokens": [f"w{i % 60}", "w1"], "tags": ["B-X", "O"]} for i in range(rows)]
        text = "".join(json.dumps(row) + "\n" for row in words)
        (tmp_path / f"{name.replace('pairs', 'words')}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    small = ["--model", str(encoder), "--max-length", "32", "--quiet"]
    for line in "".join(blocks(page, "sh")).splitlines():
        match shlex.split(line, comments=True):
            case [
                "finesieve",
                "bench",
                suite,
                *rest,
            ]:  # its runs take hours: the table of those kept
                at = [*rest[:-1], str(ROOT / rest[-1])]
                assert main(["bench", str(ROOT / suite), *at, "--table-only"]) == 0
            case ["finesieve", "inspect", *rest] if "--language-model" in rest:
                folder = tmp_path / "causal"
                causal().save_pretrained(folder)
                tokenizer().save_pretrained(folder)
                rows = [{"prompt": f"w{i} w2", "completion": " w3 w4"} for i in range(20)]
                chats = "".join(json.dumps(row) + "\n" for row in rows)
                (tmp_path / rest[0]).write_text(chats, encoding="utf-8")
                rest[rest.index("--model") + 1] = str(folder)
                assert main(["inspect", *rest, "--quiet"]) == 0, line
            case ["finesieve", "compare" as verb, *rest]:
                given = rest if "--output" in rest else [*rest, "--output", "compared"]
                assert main([verb, *given, *small, "--seeds", "1"]) == 0
                said = capsys.readouterr().out
                assert "finesieve against full training: same as full" in said
                out = Path(given[given.index("--output") + 1])
                assert "<html" in (out / "report.html").read_text(encoding="utf-8")
            case ["finesieve", "train" | "inspect" as verb, *rest]:
                if "--lora" in rest:
                    pytest.importorskip("peft")
                assert main([verb, *rest, *small]) == 0
            case ["finesieve", "clean", *rest]:
                issues = Path(rest[rest.index("--drop") + 1])
                with issues.open(encoding="utf-8", newline="") as file:
                    told = [{**row, "confirmed": "yes"} for row in csv.DictReader(file)]
                with issues.open("w", encoding="utf-8", newline="") as file:
                    table = csv.DictWriter(file, list(told[0]))
                    table.writeheader()
                    table.writerows(told)
                assert main(["clean", *rest]) == 0
            case ["finesieve", *rest]:
                assert main(rest) == 0


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.S | re.M)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=named
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def test_the_site_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = re.findall(r": ([\w/-]+\.md)$", text, re.M)
    there = {p.relative_to(ROOT / "docs").as_posix() for p in PAGES[1:]}
    assert len(shown) == len({*shown})
    assert {*shown} == {p for p in there if not p.startswith("research/")}


def literals() -> str:
    """All that the package says, without the places where a value is put in."""
    said = []
    for path in (ROOT / "finesieve").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said.append(
                    "".join(
                        getattr(part, "value", "") if isinstance(part, ast.Constant) else "{}"
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
            elif isinstance(node, ast.ClassDef):
                said.append(node.name)
    return "\n".join(said)


def test_messages_that_are_explained_are_said() -> None:
    page = (ROOT / "docs" / "reference" / "messages.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([^`]+)`", page, re.M)
    said = literals()
    assert len(explained) > 20
    assert [text for text in explained if text not in said] == []


def test_the_versions_are_those_that_are_pinned() -> None:
    page = (ROOT / "docs" / "reference" / "versions.md").read_text(encoding="utf-8")
    for column, name in ((3, "constraints-lowest.txt"), (4, "constraints.txt")):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pinned = dict(line.split("==") for line in lines)
        rows = [row.split("|") for row in re.findall(r"^\| [a-z].*$", page, re.M)][1:]
        assert len(rows) >= 12
        for row in rows:
            assert pinned[row[1].strip()] == row[column].strip(), (name, row[1])
