"""Imports a module as if packages were not installed: `python -m tests.without MODULE PACKAGE...`."""

from __future__ import annotations

import sys
from importlib import import_module


def main(module: str, *names: str) -> None:
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in names:
            del sys.modules[loaded]
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    import_module(module)


if __name__ == "__main__":
    main(*sys.argv[1:])
