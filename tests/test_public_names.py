"""The package's public names are loaded when they are asked for, and are all there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import finesieve


def test_every_public_name_is_the_one_that_type_checkers_see() -> None:
    """They read imports which never run; what is loaded instead must come from the same places."""
    tree = ast.parse(Path(finesieve.__file__).read_text(encoding="utf-8"))
    (checked,) = (
        n
        for n in tree.body
        if isinstance(n, ast.If) and isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"
    )
    seen = set()
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            name = alias.asname or alias.name
            space: dict[str, object] = {}
            exec(f"from {node.module} import {alias.name} as found", space)
            assert getattr(finesieve, name) is space["found"], name
            seen.add(name)
    assert set(finesieve.__all__) <= seen


def test_names_are_listed_and_loaded_once() -> None:
    assert set(finesieve.__all__) <= set(dir(finesieve))
    assert not hasattr(finesieve, "Siev")
    code = """
import sys, finesieve
assert "torch" not in sys.modules and "numpy" not in sys.modules
from finesieve import *
assert Sieve is finesieve.Sieve is vars(finesieve)["Sieve"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_folders_are_attributes_as_they_were() -> None:
    code = """
import finesieve
for name in ("batches", "costs", "errors", "gates", "methods", "scoring", "sieve", "stages"):
    assert getattr(finesieve, name).__name__ == f"finesieve.{name}", name
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
