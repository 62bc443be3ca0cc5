"""A benchmark suite: a small TOML file that says what is compared with what, on which data.

name = "main"
methods = ["full", "finesieve", "random at equal time"]
# and: "full without head start", "full in 2 epochs", whatever the suite's own head_start and epochs
seeds = 3
seeds_of = { full = 1 }              # fewer for a dear method
tuning = ["emotion"]                 # sets that choose each method's point of the grid
tuned_by = "full"                    # or: this method's point serves all of them
claim = ["clickbait", "snips"]       # sets that the verdict is about

[config]                             # fields of the configuration, for every run
precision = "bf16"
max_length = 64

[grid]                               # every method is tuned over the same points
lr = [1e-4, 2e-4]

[sets.clickbait]                     # paths in the data folder
train = "clickbait/train.jsonl.gz"
eval = ["clickbait/test.jsonl.gz"]
settings = { finesieve = { budget = 0.2 } }  # of a method, on this set alone
"""

from __future__ import annotations

import gzip
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from finesieve import methods
from finesieve.cli.config import Config
from finesieve.errors import ConfigError

# Methods that get their share of the stream from the seconds that finesieve took.
EQUAL = {"random at equal time": "random", "truncated at equal time": "truncated"}
# "METHOD without head start" is that method from a random head, whatever the suite's head_start is.
WITHOUT = " without head start"
# "METHOD in 2 epochs" is that method with fewer epochs than the suite's (or more).
IN_EPOCHS = re.compile(r" in ([1-9]\d*) epochs?$")
_TOP = (
    "name",
    "methods",
    "seeds",
    "seeds_of",
    "tuning",
    "tuned_by",
    "claim",
    "config",
    "grid",
    "sets",
    "derived",
    "settings",
    "points",
)
CONFIG = {f.name for f in fields(Config)} - {"train", "eval", "method", "seed", "settings"}


@dataclass(frozen=True)
class Derived:
    """A file made from one of the data folder's.

    Args:
        labels: old label -> new one; rows with another label are left out.
        noise: share of the rows whose label is replaced by another one, drawn with `seed`.
        column: whose values become the label, such as what a crowd said.
    """

    source: str
    labels: Mapping[str, Any] | None = None
    noise: float = 0.0
    seed: int = 0
    column: str = "label"

    def write(self, data_dir: Path, target: Path) -> None:
        """Writes the set that is made of another one.

        Args:
            data_dir: the folder with the other one.
            target: the file to write, JSON lines.

        Raises:
            ConfigError: where the other one has no such column.
        """
        opened = gzip.open if self.source.endswith(".gz") else open
        with opened(data_dir / self.source, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        if rows and self.column not in rows[0]:
            raise ConfigError(
                f"{self.source} has no column {self.column!r}; there are {', '.join(rows[0])}"
            )
        rows = [{**r, "label": r[self.column]} for r in rows]
        if self.labels is not None:
            rows = [
                {**r, "label": self.labels[str(r["label"])]}
                for r in rows
                if str(r["label"]) in self.labels
            ]
        names = sorted({r["label"] for r in rows}, key=str)
        dice = np.random.default_rng(self.seed)
        for i in np.flatnonzero(dice.random(len(rows)) < self.noise):
            others = [n for n in names if n != rows[i]["label"]]
            rows[i]["label"] = others[int(dice.integers(len(others)))]
        target.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@dataclass(frozen=True)
class Suite:
    """What a suite file says, checked."""

    name: str
    methods: tuple[str, ...]
    sets: Mapping[str, Mapping[str, Any]]
    tuning: tuple[str, ...] = ()
    claim: tuple[str, ...] = ()
    seeds: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds_of: Mapping[str, int] = field(default_factory=dict)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    tuned_by: str | None = None

    def seeds_for(self, method: str) -> int:
        """Returns how many seeds a method is run with."""
        return min(self.seeds, self.seeds_of.get(method, self.seeds))

    def grid_points(self) -> list[dict[str, Any]]:
        """Returns every combination of the grid's values; one empty point without a grid."""
        return [dict(zip(self.grid, p, strict=True)) for p in product(*self.grid.values())]

    def config_of(
        self,
        set_name: str,
        method: str,
        seed: int,
        point: Mapping[str, Any],
        files: Files,
        **settings: Any,
    ) -> Config:
        """Returns the configuration of one run.

        Args:
            settings: of the method, besides the suite's.
        """
        one = dict(self.sets[set_name])
        own = one.pop("settings", {}).get(method, {})
        epochs = IN_EPOCHS.search(method)
        values = {
            **self.config,
            **one,
            **point,
            "train": files.path(one["train"]),
            "eval": tuple(files.path(e) for e in one.get("eval", ())),
            **({"head_start": 0} if method.endswith(WITHOUT) else {}),
            **({"epochs": int(epochs[1])} if epochs else {}),
            "method": plain_name(method),
            "settings": {**self.settings.get(method, {}), **own, **settings},
            "seed": seed,
        }
        return Config(**values)


class Files:
    """Where a suite's files lie: in the data folder, or derived from it in a scratch folder.

    Without a data folder every name stands for itself: a path, or what else `load` understands.
    """

    def __init__(self, suite: Suite, data_dir: Path | None, scratch: Path) -> None:
        self.data_dir, self.scratch = data_dir, scratch
        self._derived = {}
        for name, derived in suite.derived.items():
            if data_dir is None:
                raise ConfigError(f"derived file {name} needs a data folder to be derived from")
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            derived.write(data_dir, target)
            self._derived[name] = str(target)

    def path(self, name: str) -> str:
        """Returns a set's file, in the data folder or derived; a built-in set's name as it is."""
        if self.data_dir is None or built_in(name):
            return name
        return self._derived.get(name) or str(self.data_dir / name)

    def hidden(self, value: Any) -> Any:
        """Returns the value with the data folder's paths left out of every string."""
        if self.data_dir is None:
            return value
        if isinstance(value, str):
            shown = value.replace(str(self.scratch), "DERIVED")
            return shown.replace(str(self.data_dir), "DATA")
        if isinstance(value, list):
            return [self.hidden(v) for v in value]
        if isinstance(value, dict):
            return {self.hidden(k): self.hidden(v) for k, v in value.items()}
        return value


def plain_name(method: str) -> str:
    """Return the registered name of a suite's method: without what the suite changes about it."""
    return IN_EPOCHS.sub("", EQUAL.get(method, method).removesuffix(WITHOUT))


def built_in(name: str) -> bool:
    """Return whether these data come with the command line instead of from a file."""
    return name.split(":")[0] == "docstrings"


def read_suite(path: str | Path) -> Suite:
    """Returns what a suite file says, checked.

    Raises:
        ConfigError: with the key or name that is wrong, and the nearest right one.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no suite file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"suite {path} is no valid TOML: {error}") from None
    _known(raw, _TOP, f"suite {path}")
    sets = raw.get("sets", {})
    for name, one in sets.items():
        _known(one, {*CONFIG, "train", "eval", "settings"}, f"set {name}")
        if "train" not in one:
            raise ConfigError(f"set {name} has no `train`; expected a path in the data folder")
    _known(raw.get("config", {}), CONFIG, "[config]")
    _known(raw.get("grid", {}), CONFIG, "[grid]")
    names = tuple(raw.get("methods", ()))
    if not names:
        raise ConfigError(f"suite {path} names no methods")
    for own in ({}, *(one.get("settings", {}) for one in sets.values())):
        _known(own, names, "a set's settings")
        for method in names:
            if method not in EQUAL:
                given = {**raw.get("settings", {}).get(method, {}), **own.get(method, {})}
                methods.registry.build(plain_name(method), 0, **given)
    if any(m in EQUAL for m in names) and not {"finesieve", "full"} <= set(names):
        raise ConfigError(
            "methods at equal time get finesieve's seconds and full training's pace: both must be "
            "among the methods"
        )
    _known(raw.get("settings", {}), names, "[settings]")
    _known(raw.get("points", {}), names, "[points]")
    for method, point in raw.get("points", {}).items():
        _known(point, CONFIG, f"[points.{method}]")
    for role in ("tuning", "claim"):
        for name in raw.get(role, ()):
            _known([name], sets, f"{role} names")
    both = set(raw.get("tuning", ())) & set(raw.get("claim", ()))
    if both:
        raise ConfigError(f"{sorted(both)} both tune and claim; they must be different sets")
    if not raw.get("claim"):
        raise ConfigError(f"suite {path} has no `claim` sets")
    grid = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in raw.get("grid", {}).items()}
    if any(len(v) > 1 for v in grid.values()) and not raw.get("tuning"):
        raise ConfigError(f"suite {path} has a grid but no `tuning` sets to choose from it")
    derived = {}
    for name, one in raw.get("derived", {}).items():
        own = {f.name for f in fields(Derived)} - {"source"}
        _known(one, ("from", *sorted(own)), f"derived file {name}")
        derived[name] = Derived(one["from"], **{k: v for k, v in one.items() if k != "from"})
    tuned_by = raw.get("tuned_by")
    if tuned_by is not None:
        _known([tuned_by], [m for m in names if m not in EQUAL], "tuned_by")
    seeds, seeds_of = raw.get("seeds", 1), raw.get("seeds_of", {})
    _known(seeds_of, names, "seeds_of")
    for count in (seeds, *seeds_of.values()):
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"seeds is {count!r}; expected 1 or more")
    return Suite(
        raw.get("name", Path(path).stem),
        names,
        sets,
        tuple(raw.get("tuning", ())),
        tuple(raw["claim"]),
        seeds,
        raw.get("config", {}),
        grid,
        raw.get("settings", {}),
        raw.get("points", {}),
        seeds_of,
        derived,
        tuned_by,
    )


def title_of(train: str) -> str:
    """Return a short name for the set that these training data are."""
    return Path(train).name.split(".")[0] or train


def _known(given: Any, known: Any, where: str) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), [str(k) for k in known], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{where}: {key!r} is unknown; there are {', '.join(sorted(map(str, known)))}{hint}"
            )
