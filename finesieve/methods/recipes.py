"""Our own recipes, plain training and a random subset, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finesieve.gates.forward import PredictorGate
from finesieve.gates.predictor import SizeRegression
from finesieve.gates.protocol import Gate
from finesieve.gates.sampling import ThresholdSampling
from finesieve.gates.simple import Open, Random
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe, default_of
from finesieve.stages.automatic import Automatic
from finesieve.stages.budget import Budget as BudgetPolicy
from finesieve.stages.budget import check_budget
from finesieve.stages.policy import Fixed, Stages


@dataclass(frozen=True)
class Adaptive(Recipe):
    """Finds the stages and shares by itself: the default.

    Threshold sampling at both gates with inverse-probability weights; a gate closes when variance
    x cost is lower with it closed, and opens again when it is not.

    Args:
        least: share of the stream, and of each class in it, that is trained on at least once gates
            are closed, in [0, 1]: for the number of optimizer steps, and for small classes.
        train: share that is trained on, in (0, 1]; None finds the one of least variance x cost.
        score: share that closed forward gates let through to scoring, in (0, 1]; None likewise.
        audit: share that passes the forward gate whatever the predictor says, in [0, 1].
        floor_forward, floor_backward: least probability to pass each gate, in [0, 1]; they bound
            the weights.
        cost_ratio: seconds to score an example over seconds to train on one; None measures it.
        predictor_bits: the predictor has 2 ** predictor_bits weights.
        margin: by how much cheaper than plain training a stage must be before a gate closes.
        slack: how much dearer than stage 2 stage 3 may become before the forward gate opens again.
        warmup: share of the stream that stage 1 lasts at least, in [0, 1].
        patience: examples with known losses that a stage lasts at least; 256 for the first stage.
        window: examples with known losses that are remembered.
        recent: of those, how many a price is computed from.
    """

    least: float = 0.2
    train: float | None = None
    score: float | None = None
    audit: float = default_of(PredictorGate, "audit")
    floor_forward: float = 0.1
    floor_backward: float = 0.05
    cost_ratio: float | None = None
    predictor_bits: int = default_of(SizeRegression, "bits")
    margin: float = default_of(Automatic, "margin")
    slack: float = default_of(Automatic, "slack")
    warmup: float = default_of(Automatic, "warmup")
    patience: int = default_of(Automatic, "patience")
    window: int = default_of(Automatic, "window")
    recent: int = default_of(Automatic, "recent")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `finesieve` with automatic stages."""
        stages = Automatic(
            margin=self.margin,
            slack=self.slack,
            warmup=self.warmup,
            patience=self.patience,
            window=self.window,
            recent=self.recent,
        )
        return _ours(self, seed, stages, self.train, self.score, self.least)


@dataclass(frozen=True)
class Budget(Recipe):
    """Spends a given share of plain training's cost where it buys the least variance.

    Args:
        share: total cost, scoring included, as a share of plain training's, in (0, 1).
        audit, floor_forward, floor_backward, cost_ratio, predictor_bits: as in `Adaptive`.
        margin: by how much the variance must be below that of a random share of the same cost
            before the gates close.
        patience, window: as in `Adaptive`.
    """

    share: float
    audit: float = Adaptive.audit
    floor_forward: float = Adaptive.floor_forward
    floor_backward: float = Adaptive.floor_backward
    cost_ratio: float | None = Adaptive.cost_ratio
    predictor_bits: int = Adaptive.predictor_bits
    margin: float = default_of(BudgetPolicy, "margin")
    patience: int = default_of(BudgetPolicy, "patience")
    window: int = default_of(BudgetPolicy, "window")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `finesieve` with a budget, spent on a random subset at first."""
        stages = BudgetPolicy(margin=self.margin, patience=self.patience, window=self.window)
        subset = Random(check_budget(self.share), seed, systematic=True)
        return _ours(self, seed, stages, None, None, Adaptive.least, subset)


@dataclass(frozen=True)
class Manual(Recipe):
    """Our gates, with stages that begin where you say.

    Args:
        starts: the share of the stream at which stages 2 and 3 begin, e.g. {2: 0.05, 3: 0.2};
            {} leaves the gates open.
        train, least, audit, floor_forward, floor_backward, cost_ratio: as in `Adaptive`.
        score: share that is scored in stage 3, in (0, 1].
        predictor_bits: as in `Adaptive`.
    """

    starts: Mapping[int, float]
    train: float | None = Adaptive.train
    score: float = 0.4
    least: float = Adaptive.least
    audit: float = Adaptive.audit
    floor_forward: float = Adaptive.floor_forward
    floor_backward: float = Adaptive.floor_backward
    cost_ratio: float | None = Adaptive.cost_ratio
    predictor_bits: int = Adaptive.predictor_bits

    def build(self, seed: int = 0) -> Method:
        """Returns the method `finesieve` with stages by hand."""
        return _ours(self, seed, Fixed(self.starts), self.train, self.score, self.least)


def _ours(
    recipe: Adaptive | Budget | Manual,
    seed: int,
    stages: Stages,
    train: float | None,
    score: float | None,
    least: float,
    opening: Gate | None = None,
) -> Method:
    """Returns our method: threshold sampling at both gates, on predicted sizes in the forward one.

    Args:
        recipe: the settings that all recipes of ours have.
        seed: of everything that draws random numbers; each gate has dice of its own.
        stages: when the gates close.
        train, score, least: as in `Adaptive`.
        opening: what is trained on in stage 1; everything by default.
    """
    rule = ThresholdSampling(score, recipe.floor_forward, seed=2 * seed)
    forward = PredictorGate(SizeRegression(recipe.predictor_bits), rule, recipe.audit, seed)
    backward = ThresholdSampling(
        train,
        recipe.floor_backward,
        seed=2 * seed + 1,
        cost_ratio=recipe.cost_ratio,
        least=least,
    )
    return Method("finesieve", forward, backward, stages, opening or Open(), batch_share=0.5)


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
