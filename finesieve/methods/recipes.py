"""Recipes: what a method is made of, as frozen dataclasses. A sieve builds its own gates from one.

A recipe holds settings alone. So one recipe may be given to many sieves, and nothing is shared
between them: each builds gates of its own, with its own seed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from inspect import signature
from typing import Any

from finesieve.errors import ConfigError, SettingError, check_share
from finesieve.gates.forward import PredictorGate
from finesieve.gates.simple import Open, Random
from finesieve.methods import default
from finesieve.methods.baselines import infobatch, loss_rules, rho_loss
from finesieve.methods.baselines import paper as ouyang
from finesieve.methods.baselines.naive_bayes import NaiveBayes
from finesieve.methods.method import Method
from finesieve.stages.automatic import Automatic
from finesieve.stages.budget import Budget as BudgetPolicy
from finesieve.stages.policy import Fixed


def _default(owner: type, name: str) -> Any:
    """Returns the default that a policy or gate itself has, so that it is written down once."""
    return signature(owner).parameters[name].default


class Recipe(ABC):
    """A method's settings. Subclasses are frozen dataclasses.

    Raises `SettingError`, which is a `ConfigError` and a `TypeError`, for a setting that does not
    exist, with the nearest name; `ConfigError` for a value of the wrong kind.
    """

    def __new__(cls, *args: Any, **settings: Any) -> Recipe:
        check_names(cls, settings)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            _check_kind(type(self).__name__, one.name, str(one.type), getattr(self, one.name))
        self.build()  # at the door: the gates and the policy check the ranges

    @abstractmethod
    def build(self, seed: int = 0) -> Method:
        """Returns the method with gates of its own.

        Args:
            seed: of everything in it that draws random numbers.
        """


def check_names(recipe: type, settings: Mapping[str, Any]) -> None:
    """Raises `SettingError` for a setting that the recipe does not have."""
    known = [one.name for one in fields(recipe)]
    for name in settings:
        if name == "seed":
            raise SettingError("the seed is set for the whole run, not among a method's settings")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise SettingError(f"{recipe.__name__} has no setting {name!r}; {there}{hint}")


def _check_kind(recipe: str, name: str, kind: str, value: Any) -> None:
    if value is None and "None" in kind:
        return
    wanted = ""
    if "Mapping" in kind:
        wanted = "" if isinstance(value, Mapping) else "e.g. {2: 0.05, 3: 0.2}"
    elif "bool" in kind:
        wanted = "" if isinstance(value, bool) else "True or False"
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            wanted = "a finite number"
        elif kind.startswith("int") and not isinstance(value, int):
            wanted = "a whole number"
    if wanted:
        raise ConfigError(f"setting {name} of {recipe} is {value!r}; expected {wanted}")


# ---- our own


@dataclass(frozen=True)
class Adaptive(Recipe):
    """Finds the stages and shares by itself: the default.

    Threshold sampling at both gates with inverse-probability weights; a gate closes when variance
    x cost is lower with it closed, and opens again when it is not.

    Args:
        least: share of the stream that is trained on at least once gates are closed, in [0, 1]:
            for the number of optimizer steps.
        train: share that is trained on, in (0, 1]; None finds the one of least variance x cost.
        score: share that closed forward gates let through to scoring, in (0, 1]; None likewise.
        audit: share that passes the forward gate whatever the predictor says, in [0, 1].
        floor_forward, floor_backward: least probability to pass each gate, in [0, 1]; they bound
            the weights.
        cost_ratio: seconds to score an example over seconds to train on one; None measures it.
        predictor_bits: the predictor has 2 ** predictor_bits weights.
        systematic: keep of every label and size as many as expected, instead of drawing for each
            example alone.
        margin: by how much cheaper than plain training a stage must be before a gate closes.
        slack: how much dearer than stage 2 stage 3 may become before the forward gate opens again.
        warmup: share of the stream that stage 1 lasts at least, in [0, 1].
        patience: examples with known losses that a stage lasts at least.
        window: examples with known losses that are remembered.
        recent: of those, how many a price is computed from.
    """

    least: float = 0.2
    train: float | None = None
    score: float | None = None
    audit: float = 0.02
    floor_forward: float = 0.1
    floor_backward: float = 0.05
    cost_ratio: float | None = None
    predictor_bits: int = 20
    systematic: bool = False
    margin: float = _default(Automatic, "margin")
    slack: float = _default(Automatic, "slack")
    warmup: float = _default(Automatic, "warmup")
    patience: int = _default(Automatic, "patience")
    window: int = _default(Automatic, "window")
    recent: int = _default(Automatic, "recent")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `finesieve` with automatic stages."""
        return default.finesieve(seed, **_settings(self))


@dataclass(frozen=True)
class Budget(Recipe):
    """Spends a given share of plain training's cost where it buys the least variance.

    Args:
        share: total cost, scoring included, as a share of plain training's, in (0, 1).
        audit, floor_forward, floor_backward, cost_ratio, predictor_bits: as in `Adaptive`.
        systematic: as in `Adaptive`.
        margin: by how much the variance must be below that of a random share of the same cost
            before the gates close.
        patience, window: as in `Adaptive`.
    """

    share: float
    audit: float = 0.02
    floor_forward: float = 0.1
    floor_backward: float = 0.05
    cost_ratio: float | None = None
    predictor_bits: int = 20
    systematic: bool = True
    margin: float = _default(BudgetPolicy, "margin")
    patience: int = _default(BudgetPolicy, "patience")
    window: int = _default(BudgetPolicy, "window")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `finesieve` with a budget."""
        settings = _settings(self)
        return default.finesieve(seed, budget=settings.pop("share"), **settings)


@dataclass(frozen=True)
class Manual(Recipe):
    """Our gates, with stages that begin where you say.

    Args:
        starts: the share of the stream at which stages 2 and 3 begin, e.g. {2: 0.05, 3: 0.2};
            {} leaves the gates open.
        train, least, audit, floor_forward, floor_backward, cost_ratio: as in `Adaptive`.
        score: share that is scored in stage 3, in (0, 1].
        predictor_bits, systematic: as in `Adaptive`.
    """

    starts: Mapping[int, float]
    train: float | None = None
    score: float = 0.4
    least: float = 0.2
    audit: float = 0.02
    floor_forward: float = 0.1
    floor_backward: float = 0.05
    cost_ratio: float | None = None
    predictor_bits: int = 20
    systematic: bool = False

    def build(self, seed: int = 0) -> Method:
        """Returns the method `finesieve` with stages by hand."""
        return default.finesieve(seed, **_settings(self))


@dataclass(frozen=True)
class Full(Recipe):
    """Plain training: both gates stay open, and nothing is changed, to the bit."""

    def build(self, seed: int = 0) -> Method:
        """Returns the method `full`."""
        return Method("full", Open(), Open(), Fixed({}))


@dataclass(frozen=True)
class RandomSubset(Recipe):
    """A random subset, drawn anew in each pass; nothing is scored.

    The rival that any selection must beat at equal total time.

    Args:
        share: of the examples, in (0, 1].
    """

    share: float = 0.3

    def build(self, seed: int = 0) -> Method:
        """Returns the method `random`."""
        return Method("random", Random(self.share, seed), Open(), Fixed({3: 0.0}))


# ---- baselines


@dataclass(frozen=True)
class Paper(Recipe):
    """Ouyang et al. 2023 (arXiv 2207.14386) with its plain defects mended: half batches instead of
    single examples in stage 3, no second forward, schedule by share of the stream, an audit, and a
    naive Bayes that takes absent tokens for no evidence. Unweighted.

    Args:
        warmup: share of the stream that stage 1 lasts, in (0, 1].
        log_loss: the predictor's mean log-loss, in nats, at which stage 3 begins.
        history: losses of stage 1 whose mean becomes the threshold.
        audit: share that passes the forward gate whatever the predictor says, in [0, 1].
        vocabulary: token ids that the naive Bayes tells apart.
        window: scored examples over which the log-loss is taken.
    """

    warmup: float = 0.05
    log_loss: float = 0.6
    history: int = 128
    audit: float = 0.02
    vocabulary: int = 32768
    window: int = _default(ouyang.Paper, "window")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `paper`."""
        bayes = NaiveBayes(self.vocabulary, absent=False)
        forward = PredictorGate(bayes, ouyang.CutOff(0.5), self.audit, seed)
        return Method(
            "paper",
            forward,
            ouyang.LossThreshold(self.history),
            ouyang.Paper(self.warmup, self.log_loss, self.window),
            batch_share=0.5,
        )


@dataclass(frozen=True)
class Authors(Recipe):
    """Ouyang et al. 2023 as the authors' scripts do it: frozen threshold, naive Bayes on the
    presence of every word piece, without label or audit, a second forward for what is trained on,
    single examples in stage 3, learning rate by optimizer steps (so that the single examples use
    it up). Departs from them in padding (to the batch, not to 512 tokens) and in training on the
    rest of the queue at the end.

    Args:
        warmup, log_loss, history, vocabulary, window: as in `Paper`.
    """

    warmup: float = 0.05
    log_loss: float = 0.6
    history: int = 128
    vocabulary: int = 32768
    window: int = _default(ouyang.Paper, "window")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `authors`."""
        bayes = NaiveBayes(self.vocabulary, absent=True)
        return Method(
            "authors",
            PredictorGate(bayes, ouyang.CutOff(0.5), 0.0, seed),
            ouyang.LossThreshold(self.history),
            ouyang.Paper(self.warmup, self.log_loss, self.window),
            batches={3: 1},
            schedule_by="steps",
        )


@dataclass(frozen=True)
class Quantile(Recipe):
    """The examples with the highest losses, unweighted. Here as a warning: it can collapse.

    Args:
        train: share that is kept, in (0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.2
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `quantile`."""
        gate = loss_rules.Quantile(self.train)
        return Method("quantile", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class SelectiveBackprop(Recipe):
    """Jiang et al. 2019: everything is scored, kept with probability percentile ** beta,
    unweighted, full batches. Departs from the paper in a short warm-up on everything, in which the
    history fills; the paper fills it with the first batches' forwards.

    Args:
        beta: selectivity, positive.
        window: losses that are remembered.
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    beta: float = 2.0
    window: int = 1024
    warmup: float = 0.02

    def build(self, seed: int = 0) -> Method:
        """Returns the method `selective-backprop`."""
        gate = loss_rules.SelectiveBackprop(self.beta, self.window, seed)
        return Method("selective-backprop", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class TopLoss(Recipe):
    """Kawaguchi & Lu 2020: the share of each pool with the highest losses, unweighted. Departs
    from the paper in choosing from the sieve's pools (256 examples) instead of mini-batches.

    Args:
        train: share that is kept, in (0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.3
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `top-loss`."""
        gate = loss_rules.TopLoss(self.train)
        return Method("top-loss", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class LossSampling(Recipe):
    """Sampling in proportion to the loss with inverse-probability weights, everything scored:
    `TopLoss` made unbiased (Katharopoulos & Fleuret 2018).

    Args:
        train: share that is kept, in (0, 1].
        floor: least probability, in [0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.3
    floor: float = 0.05
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `loss-sampling`."""
        gate = loss_rules.LossSampling(self.train, self.floor, seed)
        return Method("loss-sampling", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class InfoBatch(Recipe):
    """Qin et al. 2024 (arXiv 2303.04947): from the second pass on a share of the examples whose
    last loss was below the mean is left out, the rest of them weighs more; nothing is scored.

    Args:
        share: of those examples that is left out, in (0, 1).
        until: share of the stream from which on everything is trained on again.
    """

    share: float = 0.5
    until: float = 0.875

    def build(self, seed: int = 0) -> Method:
        """Returns the method `infobatch`."""
        gate = infobatch.InfoBatch(self.share, seed)
        policy = infobatch.Annealed(self.until)
        return Method("infobatch", gate, Open(), policy, needs_ids=True)


@dataclass(frozen=True)
class RhoLoss(Recipe):
    """Mindermann et al. 2022 (arXiv 2206.07137): everything is scored, the share with the highest
    reducible loss is trained on. The reference model is of the same kind, trained for one pass on
    a holdout of the training examples, on which the model itself is then not trained.

    Args:
        train: share that is kept, in (0, 1].
        holdout: share of the training examples for the reference model, in (0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.3
    holdout: float = 0.2
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `rho-loss`."""
        return Method(
            "rho-loss",
            Open(),
            rho_loss.Reducible(self.train),
            Fixed({2: self.warmup}),
            reference=check_share("holdout", self.holdout),
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {one.name: getattr(recipe, one.name) for one in fields(recipe)}  # type: ignore[arg-type]
