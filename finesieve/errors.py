"""One family of errors and one of warnings.

Every message says what came, what was expected, and the likely cause.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


class FinesieveError(Exception):
    """Base of all errors that finesieve raises on purpose."""


class ConfigError(FinesieveError, ValueError):
    """A setting is outside its range or contradicts another."""


class SettingError(ConfigError, TypeError):
    """A setting has a name that nothing knows."""


class BatchError(FinesieveError, ValueError):
    """A batch cannot be taken apart into examples."""


class ScoreError(FinesieveError, ValueError):
    """A loss or a size is not one finite value per example."""


class GateError(FinesieveError, ValueError):
    """A gate lacks what it needs to decide, or returned something that is no verdict."""


class LawError(FinesieveError, AssertionError):
    """A gate breaks one of the laws in `finesieve.gates.laws`."""


class DataError(FinesieveError, ValueError):
    """Input data cannot be read or does not fit the task."""


class StateError(FinesieveError, ValueError):
    """A saved state belongs to another configuration, version or run."""


class FinesieveWarning(UserWarning):
    """Base of all warnings."""


class CollapseWarning(FinesieveWarning):
    """The model gets worse on the stream while an unweighted gate chooses its examples."""


def install(extra: str) -> str:
    """Return the command that installs an extra, from the package index or from a clone."""
    return f"pip install 'finesieve[{extra}]' (in a clone of the project: pip install '.[{extra}]')"


def is_whole(value: Any) -> bool:
    """Return whether this is a whole number, Python's own or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether this is a real number, Python's own or NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_seed(value: Any) -> int:
    """Return a seed as an int, else raise `ConfigError`."""
    if not is_whole(value):
        raise ConfigError(
            f"seed is {value!r}; expected a whole number: runs of one seed repeat, and another "
            "one gives other runs"
        )
    return int(value)


def check_examples(name: str, value: Any, least: int = 1) -> int | None:
    """Return a number of examples, Python's own or NumPy's, as an int, or None; raise `ConfigError`
    for anything else."""
    if value is None:
        return None
    if not is_whole(value) or value < least:
        raise ConfigError(
            f"{name} is {value!r}; expected a number of examples, a whole one, {least} or more"
        )
    return int(value)


def check_share(name: str, value: float, *, zero: bool = False) -> float:
    """Return `value` if it lies in (0, 1] (or [0, 1] with `zero`), else raise `ConfigError`."""
    number = is_number(value)
    if not number or not (0 <= value <= 1 if zero else 0 < value <= 1):
        bounds = "[0, 1]" if zero else "(0, 1]"
        raise ConfigError(
            f"{name} is {value!r}; expected a share in {bounds}"
            + (", e.g. 0.2 for 20 %" if number and value > 1 else "")
        )
    return float(value)


def check_cost_ratio(value: float | None) -> float | None:
    """Return `value` if it is a positive number or None, else raise `ConfigError`."""
    if value is None:
        return None
    number = is_number(value)
    if not number or not 0 < value < float("inf"):
        raise ConfigError(f"cost_ratio is {value!r}; expected a positive ratio, e.g. 0.2")
    return float(value)
