"""Import paths of version 0.1, for one release: each warns and gives what is in the new place.

`finesieve/__init__.py` appends this folder to the package's path, so `finesieve.hf` is found here.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any

# What was an attribute as soon as the package was imported. The adapters never were.
LOADED = frozenset(
    {
        "agreement",
        "budget",
        "evidence",
        "features",
        "forward_gate",
        "frozen",
        "ledger",
        "predictor",
        "rivals",
        "rows",
        "schedule",
        "stream",
        "thresholds",
    }
)
_PASSED = ("finesieve", "importlib", "_frozen_importlib", "_frozen_importlib_external")


def moved(old: str, new: str) -> None:
    """Warn, at the line that asked for it, that `old` is at `new` now."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _PASSED:
        frame = frame.f_back
    warnings.warn_explicit(
        f"{old} goes with the next release: it is {new} now",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def moved_name(old: str, new: str) -> Any:
    """What was called `old` and is called `new`, both with their modules; warns."""
    moved(old, new)
    module, _, name = new.rpartition(".")
    return getattr(import_module(module), name)
