"""What a saved state must have in common with the sieve that takes it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finesieve.errors import StateError


def described(thing: Any, _above: tuple[Any, ...] = ()) -> str:
    """Returns the class and the public settings of a gate, predictor or policy, parts included.

    A part that holds one of the objects that it is a part of is described by its class alone.
    """
    if any(thing is other for other in _above):
        return type(thing).__name__
    parts, above = [], (*_above, thing)
    for name, value in sorted(vars(thing).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, (bool, int, float, str, tuple, dict, type(None))):
            parts.append(f"{name}={value!r}")
        elif hasattr(value, "__dict__"):
            parts.append(f"{name}={described(value, above)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """`StateError` naming the first setting in which a saved state differs from this sieve."""
    if theirs.get("version") != ours.get("version"):
        raise StateError(
            f"the saved state has version {theirs.get('version')}, this finesieve reads version "
            f"{ours.get('version')}: finish the run with the finesieve that saved it, or begin anew"
        )
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise StateError(
                f"the saved state has {key}={theirs.get(key)!r}, this sieve {value!r}: build "
                "it with the settings that the state was saved with"
            )
