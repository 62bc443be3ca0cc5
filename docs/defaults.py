"""Shows the defaults of recipes as values: in the code they are asked of whoever owns them."""

from __future__ import annotations

import re
from typing import Any

import griffe

OWNED = re.compile(r"default_of\(([\w.]+), ['\"](\w+)['\"]\)")
TAKEN = re.compile(r"(\w+)\.(\w+)")


class Defaults(griffe.Extension):
    """Replaces `default_of(Owner, "name")` and `Recipe.name` by the value that stands there."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Look at the fields of every recipe, once all modules are there."""
        for name in ("methods.recipes", "methods.baselines.recipes"):
            module = pkg[name]
            for recipe in module.classes.values():
                for field in recipe.attributes.values():
                    if field.value is not None:
                        field.value = value_of(str(field.value), module, pkg)


def value_of(said: str, module: griffe.Module, pkg: griffe.Module) -> str:
    """Return the value that an expression in a module stands for; itself if it stands for none."""
    if found := OWNED.fullmatch(said):
        first, *rest = found[1].split(".")
        place = ".".join([module.resolve(first), *rest]).removeprefix(f"{pkg.name}.")
        return str(pkg[place]["__init__"].parameters[found[2]].default)
    found = TAKEN.fullmatch(said)
    if found and found[1] in module.classes:
        return value_of(str(module.classes[found[1]][found[2]].value), module, pkg)
    return said
