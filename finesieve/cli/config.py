"""Everything a run is determined by. Written into its summary and its checkpoints."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from finesieve.cli.data.labels import UNLABELLED
from finesieve.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "auto")
CLOCKS = ("wall", "processor")
# The names in `finesieve.cli.tasks.registry.TASKS`.
TASKS = ("classification", "regression", "multi-label", "token-labels")
ATTENTION = ("eager", "sdpa")  # implementations in transformers
# The names in `finesieve.methods.REGISTRY`, which cannot be asked without loading torch.
METHODS = (
    "finesieve",
    "paper",
    "authors",
    "full",
    "random",
    "quantile",
    "selective-backprop",
    "top-loss",
    "loss-sampling",
    "infobatch",
    "rho-loss",
)


def check_method(name: str) -> None:
    """Raise `ConfigError` for a method that nothing knows, without loading torch."""
    if name not in METHODS and ":" not in name:
        near = get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no method {name!r}; there are {', '.join(METHODS)}{hint}")


@dataclass(frozen=True)
class Config:
    """Settings of one training run; see `finesieve train --help` for their meaning."""

    train: str
    model: str = "minilm"
    eval: tuple[str, ...] = ()
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    keep_empty: bool = False
    unlabelled: str = "refuse"  # "drop" or "keep": rows whose label is missing, or probably is
    task: str = "classification"  # or another of `TASKS`: what the labels are
    label_names: str | None = None  # of labels that are numbers: a file, or names and commas
    limit: int | None = None
    eval_limit: int | None = None
    method: str = "finesieve"
    settings: dict[str, Any] = field(default_factory=dict)  # of the method
    epochs: int = 1
    seed: int = 0
    batch_size: int = 32
    survivor_batch_size: int | None = None
    head_start: int | None = None  # examples that the head is fitted to beforehand; None: as many
    # as `finesieve.scoring.head_start.default_examples` says of the whole training data
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.06  # of the learning rate, as a share of the stream
    max_length: int = 128
    freeze: int = 0
    lora: int = 0  # the adapters' rank; 0 trains the weights themselves
    dropout: float | None = 0.0  # None: the model's own
    precision: str = "fp32"
    attention: str = "auto"
    device: str = "auto"
    threads: int | None = None
    clock: str = "wall"  # or "processor": seconds of this process alone, on a CPU that is shared

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("survivor_batch_size", "limit", "eval_limit", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")
        if self.head_start is not None and self.head_start < 0:
            raise ConfigError(
                f"head_start is {self.head_start}; expected a number of examples, or 0 for none"
            )
        check_method(self.method)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed is {self.seed}; expected 0 to {2**31 - 1}")
        if not 0 < self.lr < 1:
            raise ConfigError(f"lr is {self.lr}; expected a learning rate like 5e-5")
        if not 0 <= self.weight_decay < 1e6 or not 0 <= self.warmup < 1:
            raise ConfigError(
                f"weight_decay is {self.weight_decay}, warmup {self.warmup}; expected "
                "weight_decay >= 0 and warmup in [0, 1)"
            )
        if self.freeze < 0:
            raise ConfigError(f"freeze is {self.freeze}; expected a number of layers, 0 or more")
        if self.lora < 0:
            raise ConfigError(f"lora is {self.lora}; expected a rank like 8, or 0 for no adapters")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; expected a rate in [0, 1)")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; expected one of {PRECISIONS}")
        if self.clock not in CLOCKS:
            raise ConfigError(f"clock is {self.clock!r}; expected one of {CLOCKS}")
        if self.unlabelled not in UNLABELLED:
            raise ConfigError(
                f"unlabelled is {self.unlabelled!r}; expected one of {', '.join(UNLABELLED)}"
            )
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; expected one of {', '.join(TASKS)}")
        if self.task in ("regression", "token-labels") and self.unlabelled == "keep":
            raise ConfigError(
                f"--unlabelled keep makes a class of missing labels, and --task {self.task} has "
                "none for them: say --unlabelled drop to leave such rows out"
            )
        if self.task == "token-labels" and self.text_pair is not None:
            raise ConfigError(
                "--text-pair is for pairs of texts, and --task token-labels takes one sentence a "
                "row: leave it out"
            )
        if self.label_names is not None and self.task not in ("multi-label", "token-labels"):
            raise ConfigError(
                f"--label-names is for --task multi-label and token-labels, and the task is "
                f"{self.task}: leave it out"
            )
        if self.attention not in ("auto", *ATTENTION):
            raise ConfigError(
                f"attention is {self.attention!r}; expected 'auto' or one of {ATTENTION}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns plain types, as they come back from JSON."""
        out = asdict(self)
        out["eval"] = list(self.eval)
        return out


def config_of(args: argparse.Namespace, **more: Any) -> Config:
    """Returns the configuration that the arguments of a command say.

    Args:
        args: every setting of `Config` that is among them is taken; `dropout` and those that may
            repeat as they were typed.
        more: settings that are no arguments, or mean something else there.

    Raises:
        ConfigError: for values out of range.
    """
    given = vars(args)
    values = {one.name: given[one.name] for one in fields(Config) if one.name in given}
    if "eval" in values:
        values["eval"] = tuple(values["eval"])
    if "dropout" in values:
        values["dropout"] = _rate(values["dropout"])
    return Config(**{**values, "settings": {}, **more})


def _rate(text: str) -> float | None:
    """Returns a dropout rate as it was typed; None for "model"."""
    if text == "model":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--dropout {text}; expected a rate or 'model'") from None
