"""Imports a module without some packages: `python -m tests.without MODULE PACKAGE...`."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import Any


class Missing(MetaPathFinder):
    """Finds nothing: imports of packages of these names fail."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in self._names:
            raise ModuleNotFoundError(name, name=name)


def main(module: str, *names: str) -> None:
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in names:
            del sys.modules[loaded]
    sys.meta_path.insert(0, Missing({*names}))
    import_module(module)


if __name__ == "__main__":
    main(*sys.argv[1:])
