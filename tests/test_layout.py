"""The folders of the package are floors: a module imports from its own floor or from one below."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "finesieve"
FLOORS = [
    "errors",
    "costs",
    "gates",
    "batches",
    "scoring",
    "stages",
    "methods",
    "sieve",
    "insight",
    "integrations",
    "cli",
]


def module_of(path: Path) -> str:
    """The dotted name of a source file; a package's for its `__init__.py`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_of(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_deprecated" not in path.parts
}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports: at any depth, for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in below}
    return found & set(MODULES)


def floor(module: str) -> int:
    """The floor of a module; the package itself, which exports from everywhere, is the roof."""
    return FLOORS.index(module.split(".")[1]) if "." in module else len(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_point_down(name: str) -> None:
    here = {
        module: path
        for module, path in MODULES.items()
        if module == f"finesieve.{name}" or module.startswith(f"finesieve.{name}.")
    }
    assert here
    for module, path in here.items():
        # The command line stands outside: it reads the version from the package.
        allowed = {"finesieve"} if name == "cli" else set()
        up = {x for x in imported(path) - allowed if floor(x) > floor(module)}
        assert not up, f"{module} imports {sorted(up)}"


def test_there_is_no_circle() -> None:
    """Nor within a floor; a package's own `__init__.py` may import what is inside of it."""
    graph = {
        module: imported(path) for module, path in MODULES.items() if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_all_that_is_there_has_a_floor() -> None:
    tops = {module.split(".")[1] for module in MODULES if "." in module}
    assert tops == set(FLOORS)


def test_folders_of_a_floor_do_not_import_each_other_in_a_circle() -> None:
    """A folder and one inside of it may know each other: the inner one is a part of it."""

    def folder(module: str) -> str:
        return ".".join(MODULES[module].relative_to(PACKAGE.parent).parts[:-1])

    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        here = folder(module)
        others = {folder(x) for x in imported(path)}
        graph.setdefault(here, set()).update(
            x for x in others if not f"{x}.".startswith(f"{here}.") and not here.startswith(f"{x}.")
        )
    del graph["finesieve"]  # exports from everywhere
    TopologicalSorter(graph).prepare()  # CycleError names the folders
