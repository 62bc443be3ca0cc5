"""The options of a sieve that most users never set, and what is found where nothing is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from torch import nn

from finesieve.costs.timer import Clock
from finesieve.errors import ConfigError, SettingError, is_whole
from finesieve.gates.features import FeatureFunction, token_features
from finesieve.gates.forward import PredictorGate
from finesieve.methods.method import Method
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.heads import Head
from finesieve.scoring.mode import unwrapped
from finesieve.scoring.precision import PRECISIONS
from finesieve.scoring.protocol import Scorer
from finesieve.scoring.scorers import Task
from finesieve.scoring.task_of import decoder_needs_targets, default_head
from finesieve.sieve.ranks import Agreement

Listener = Callable[[dict[str, Any]], None]
_WHOLE = ("pool", "group", "scoring_batch", "batch_size")  # settings that are 1 or more


@dataclass(frozen=True, kw_only=True)
class SieveOptions:
    """Further settings of a `Sieve`.

    Args:
        features: batch -> Features for the predictor; by default the task's own: for most tasks
            token ids crossed with `labels`.
        batch_size: survivors a batch; by default the loader's own times the method's `batch_share`
            (half for our own), which keeps optimizer steps; the loader's own if `total` is so large
            that 400 steps and more remain.
        pool: examples decided on together; by default 256, and 512 where launches are most of a
            step, so that scoring twice as many takes hardly longer.
        group: batches of survivors gathered before they are sorted by length and cut, so that a
            batch holds examples of like length; by default 16, and 4 where launches are most of a
            step, so that padding costs nothing. Pool and group are small on purpose: what waits was
            scored by a model that trains on meanwhile.
        scoring_batch: examples a scoring forward at the most; by default twice the loader's batch,
            64 at least, on a CPU, and as many as there are on an accelerator. Its padded tokens are
            limited in any case, by what the training batches need (`Scorer.room`).
        scoring_overhead: fixed cost of a scoring forward, in tokens: cutting the candidates into
            batches of like length weighs it against padding. By default 64 on a CPU, as measured on
            a device that runs behind the program, where it may be thousands.
        scoring_precision: "auto" scores in bf16 where the model is trained in float32 and the
            device is faster at bf16, which makes scoring two or three times cheaper on a CPU;
            "training" scores as the model is trained.
        pad_values: what to pad columns with; learned from the loader's own padding by default.
        lengths: pad every batch to one of these lengths, and score in batches of `scoring_batch`
            exactly: a few fixed shapes, for `torch.compile`. Batches need an `attention_mask`.
        id_key: column with the examples' own ids; by default they are numbered as drawn.
        save_texts: whether a saved state holds the examples that wait (some hundred, as token
            ids), so that a resumed run goes on to the bit. False for checkpoints that are
            published: a resumed run never trains on them, and books them as dropped.
        read_ahead: examples that the host takes before it trains on the first of them, where it
            takes more than a few batches: all those of one optimizer step, say.
        autocast: a function that gives the context in which training runs, e.g.
            `lambda: torch.autocast("cuda", torch.bfloat16)`; the scoring pass runs in it, too.
        prefix: frozen first layers of the model, whose output training shares.
        clock: seconds, instead of the time that the model's device itself takes.
        agreement: how ranks agree; by default found from `torch.distributed`.
        listeners: called with a dict for every event; nothing flows back from them.

    Raises:
        ConfigError: for values out of range, all of them in one message.
    """

    features: FeatureFunction | None = None
    batch_size: int | None = None
    pool: int | None = None
    group: int | None = None
    scoring_batch: int | None = None
    scoring_overhead: float | None = None
    scoring_precision: str = "auto"
    pad_values: Mapping[Any, float] | None = None
    lengths: Sequence[int] | None = None
    id_key: Hashable | None = None
    save_texts: bool = True
    read_ahead: int = 0
    autocast: Callable[[], AbstractContextManager[Any]] | None = None
    prefix: FrozenPrefix | None = None
    clock: Clock | None = None
    agreement: Agreement | None = None
    listeners: Sequence[Listener] = ()

    def __post_init__(self) -> None:
        wrong = []
        for name in _WHOLE:
            value = getattr(self, name)
            if value is not None and (not is_whole(value) or value < 1):
                wrong.append(f"{name} is {value!r}; expected a whole number, 1 or more")
        if not is_whole(self.read_ahead) or self.read_ahead < 0:
            wrong.append(
                f"read_ahead is {self.read_ahead!r}; expected a number of examples, 0 or more"
            )
        if self.scoring_overhead is not None and not self.scoring_overhead >= 0:
            wrong.append(f"scoring_overhead is {self.scoring_overhead!r}; expected 0 or more")
        if self.scoring_precision not in PRECISIONS:
            wrong.append(
                f"scoring_precision is {self.scoring_precision!r}; expected one of {PRECISIONS}"
            )
        if self.lengths is not None and (
            not self.lengths or any(not is_whole(x) or x < 1 for x in self.lengths)
        ):
            wrong.append(f"lengths is {self.lengths!r}; expected whole numbers, 1 or more")
        if wrong:
            raise ConfigError("; ".join(wrong))
        for name in (*_WHOLE, "read_ahead"):  # NumPy's would not go into checkpoints
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))


def options_of(
    options: SieveOptions | None, old: Mapping[str, Any], warn: bool = True
) -> SieveOptions:
    """Returns the options, with those that were given one by one, as in version 0.1.

    Args:
        options: as the user gave them.
        old: settings by name.
        warn: whether they come from a user, who should know the new way.

    Raises:
        SettingError: for a name that is none, with the nearest one.
    """
    check_names(old)
    if old and warn:
        names = ", ".join(f"{name}=..." for name in old)
        warnings.warn(
            f"Sieve({names}) goes with version 0.3: use Sieve(..., options=SieveOptions({names}))",
            DeprecationWarning,
            stacklevel=3,
        )
    return replace(options or SieveOptions(), **old)


def check_names(names: Iterable[str], besides: Sequence[str] = ()) -> None:
    """Raises `SettingError` for a name that is no field of `SieveOptions`, with the nearest one.

    Args:
        names: of settings.
        besides: further names that are allowed.
    """
    known = [one.name for one in fields(SieveOptions)]
    for name in names:
        if name not in known and name not in besides:
            own = besides or OWN
            near = get_close_matches(name, [*known, *own], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingError(
                f"Sieve has no setting {name!r}; there are {', '.join(own)}, and "
                f"in SieveOptions {', '.join(known)}{hint}"
            )


OWN = ("model", "method", "total", "head", "scorer", "head_start", "seed", "options")
SET = ("total", "head_start", "seed")  # of these what a host's user gives beside its own


def scorer_of(
    model: Any, head: Head | None, scorer: Scorer | None, options: SieveOptions
) -> Scorer | None:
    """Returns the scoring pass of a model: the one that is given, or the task's.

    Raises:
        ConfigError: if nothing tells the task, or two things do.
    """
    if isinstance(model, Scorer) or (callable(model) and not isinstance(model, nn.Module)):
        warnings.warn(
            "Sieve(scorer) goes with version 0.3: use Sieve(model), or Sieve(model, scorer=scorer)",
            DeprecationWarning,
            stacklevel=3,
        )
        model, scorer = None, model
    if scorer is not None:
        if head is not None:
            raise ConfigError("head= and scorer= both say what an example's loss is: give one")
        unused = [x for x in ("autocast", "prefix") if getattr(options, x) is not None]
        if unused:
            raise ConfigError(
                f"{' and '.join(unused)}: the scoring pass that finesieve makes of a model uses "
                "that, and here the scorer is given, or the host's: make the scorer with it, e.g. "
                f"finesieve.scoring.scorers.Task(model, head, {unused[0]}=...)"
            )
        return scorer
    if model is None:
        return None
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    inner = unwrapped(model)
    return Task(
        model,
        default_head(inner) if head is None else head,
        options.autocast,
        keep_targets=head is None and decoder_needs_targets(inner),
        prefix=options.prefix,
    )


def features_of(
    options: SieveOptions, method: Method, scorer: Scorer | None
) -> FeatureFunction | None:
    """Returns what the predictor sees of a batch, or None where nobody looks at it."""
    # A gate of the user's own may want features too: given ones are always computed.
    if options.features is not None or not isinstance(method.forward, PredictorGate):
        return options.features
    found: FeatureFunction = getattr(scorer, "features", token_features)()
    return found  # of a plain function as scorer, which has none, the usual ones
