"""`--set NAME=VALUE`: settings of a method from the command line, and the list of them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any

from finesieve.cli.config import check_method
from finesieve.errors import ConfigError


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of `--set NAME=VALUE`, VALUE as JSON or else as text; keys of `starts`
    become numbers.

    Raises:
        ConfigError: for words of another form.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {pair!r}; expected NAME=VALUE, e.g. train=0.2")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    starts = out.get("starts")
    if starts is not None:
        try:
            out["starts"] = {int(k): float(v) for k, v in starts.items()}
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(
                f'--set starts={starts!r}; expected e.g. starts={{"2": 0.05, "3": 0.2}}'
            ) from None
    return out


def asked_for(words: Sequence[str]) -> str | None:
    """Return the method whose settings a command line asks for by `--set help`; None if by none."""
    pairs = [("--set", w[6:]) if w.startswith("--set=") else ("", w) for w in words]
    if ("--set", "help") not in {*pairwise(words), *pairs}:
        return None
    named = [b for a, b in pairwise(words) if a == "--method"]
    named += [w.removeprefix("--method=") for w in words if w.startswith("--method=")]
    return named[-1] if named else "finesieve"


def listed(method: str) -> str:
    """Return the settings of a method with their defaults and what they mean, a line each.

    Raises:
        ConfigError: for a name that nothing knows.
    """
    check_method(method)
    from finesieve.methods import recipes, registry

    if ":" in method:
        return f"{method} takes the arguments of that function, but `seed`."
    parts: list[tuple[str, Any, dict[str, str]]]
    if method == "finesieve":
        parts = [
            ("finesieve", recipes.Adaptive, {}),
            ("finesieve with a budget", recipes.Budget, {"share": "budget"}),
            ("finesieve with stages by hand", recipes.Manual, {}),
        ]
    else:
        parts = [(method, registry.REGISTRY[method], {})]
    seen: set[str] = set()
    lines = []
    for title, recipe, names in parts:
        about = _documented(recipe)
        lines.append(f"settings of {title}{', besides' if seen else ''}:")
        known = [one for one in fields(recipe) if names.get(one.name, one.name) not in seen]
        for one in known:
            name = names.get(one.name, one.name)
            seen.add(name)
            default = "" if one.default is MISSING else f" (default: {json.dumps(one.default)})"
            lines.append(f"  {name}{default}: {about.get(one.name, one.type)}")
        if not known:
            lines.append("  none")
    return "\n".join(lines)


def _documented(recipe: Any) -> dict[str, str]:
    """Return what the docstring of a recipe says of each of its settings."""
    text = inspect.getdoc(recipe) or ""
    _, _, args = text.partition("Args:\n")
    args = args.split("\n\n")[0]
    found = re.findall(r"^    ([\w, ]+): (.*(?:\n        .*)*)", args, flags=re.M)
    return {
        name.strip(): " ".join(what.split()) for names, what in found for name in names.split(",")
    }
