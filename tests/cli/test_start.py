"""What needs no training comes at once: nothing heavy is loaded for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finesieve import __version__
from finesieve.cli.config import METHODS
from finesieve.methods import REGISTRY

HEAVY = ("torch", "numpy", "transformers", "pyarrow", "pandas")
CODE = f"""
import sys
from finesieve.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
loaded = sorted(set({HEAVY!r}) & set(sys.modules))
assert not loaded, loaded
sys.exit(status)
"""
DATA = ["--train", "t.csv"]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--version"], 0, f"finesieve {__version__}"),
        (["--help"], 0, "fine-tune one model"),
        (["train", "--help"], 0, "selective-backprop"),
        (["train"], 2, "the following arguments are required: --train"),
        (["trian"], 2, "invalid choice: 'trian'"),
        (["train", "--trian", "t.csv"], 2, "no option --trian; did you mean --train?"),
        (["inspect", "t.csv", "--rows=5"], 2, "no option --rows; `finesieve inspect --help` lists"),
        (["train", *DATA, "--outp", "o", "--lr", "5"], 2, "expected a learning rate"),
        (["train", *DATA, "--output", "o", "--lr", "5"], 2, "expected a learning rate"),
        (["train", *DATA, "--output", "o", "--set", "train"], 2, "expected NAME=VALUE"),
        (
            ["compare", *DATA, "--methods", "full", "--set", "train=0.3"],
            2,
            "is not among --methods",
        ),
        (["compare", *DATA, "--batch-size", "0"], 2, "batch_size is 0"),
        (
            ["train", *DATA, "--output", "o", "--method", "papr", "--set", "train=0.3"],
            2,
            "no method 'papr'; there are finesieve, paper,",
        ),
        (["compare", *DATA, "--methods", "full,randon"], 2, "did you mean 'random'?"),
        (
            ["bench", "s.toml", "--data-dir", "d", "--output", "o", "--workers", "0"],
            2,
            "--workers is 0",
        ),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_nothing_heavy_is_loaded_for_an_answer(words: list[str], status: int, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert told in " ".join((done.stdout + done.stderr).split())


def test_the_help_names_every_method() -> None:
    assert tuple(REGISTRY) == METHODS
