"""What a recipe is: the settings of a method, from which a sieve builds gates of its own.

A recipe holds settings alone. So one recipe may be given to many sieves, and nothing is shared
between them: each builds gates of its own, with its own seed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import signature
from typing import Any

from finesieve.errors import ConfigError, SettingError, is_number, is_whole
from finesieve.methods.method import Method


def default_of(owner: type, name: str) -> Any:
    """Returns the default that a policy or gate itself has, so that it is written down once."""
    return signature(owner).parameters[name].default


class Recipe(ABC):
    """A method's settings. Subclasses are frozen dataclasses.

    Raises:
        SettingError: for a setting that does not exist, with the nearest name. It is a
            `ConfigError` and a `TypeError`.
        ConfigError: for a value of the wrong kind.
    """

    def __new__(cls, *args: Any, **settings: Any) -> Recipe:
        """Checks the names of the settings, so that a wrong one is told with the nearest."""
        check_names(cls, settings)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            _check_kind(type(self).__name__, one.name, str(one.type), value)
            if is_number(value):  # NumPy's would not go into records and checkpoints
                plain = int(value) if is_whole(value) else float(value)
                object.__setattr__(self, one.name, plain)
        self.build()  # at the door: the gates and the policy check the ranges

    @abstractmethod
    def build(self, seed: int = 0) -> Method:
        """Returns the method with gates of its own.

        Args:
            seed: of everything in it that draws random numbers.
        """


def check_names(recipe: type, settings: Mapping[str, Any]) -> None:
    """Raises `SettingError` for a setting that the recipe does not have."""
    check_known(recipe.__name__, [one.name for one in fields(recipe)], settings)


def check_known(owner: str, known: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raises `SettingError` for a setting that is not among the known names.

    Args:
        owner: whose settings they are, for the message.
        known: the names that exist.
        settings: those given.
    """
    for name in settings:
        if name == "seed":
            raise SettingError("the seed is set for the whole run, not among a method's settings")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise SettingError(f"{owner} has no setting {name!r}; {there}{hint}")


def _check_kind(recipe: str, name: str, kind: str, value: Any) -> None:
    if value is None and "None" in kind:
        return
    wanted = ""
    if "Mapping" in kind:
        wanted = "" if isinstance(value, Mapping) else "e.g. {2: 0.05, 3: 0.2}"
    else:
        if not is_number(value) or not math.isfinite(value):
            wanted = "a finite number"
        elif kind.startswith("int") and not is_whole(value):
            wanted = "a whole number"
    if wanted:
        raise ConfigError(f"setting {name} of {recipe} is {value!r}; expected {wanted}")
