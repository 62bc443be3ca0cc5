"""The library's own method: threshold sampling at both gates, with stages that find themselves."""

from __future__ import annotations

from typing import Any

from finesieve.errors import ConfigError
from finesieve.gates.forward import PredictorGate
from finesieve.gates.predictor import SizeRegression
from finesieve.gates.protocol import Gate
from finesieve.gates.sampling import ThresholdSampling
from finesieve.gates.simple import Open, Random
from finesieve.methods.method import Method
from finesieve.stages.automatic import Automatic
from finesieve.stages.budget import Budget, check_budget
from finesieve.stages.policy import Fixed, Stages


def finesieve(
    seed: int = 0,
    train: float | None = None,
    score: float | None = None,
    budget: float | None = None,
    least: float = 0.2,
    audit: float = 0.02,
    floor_forward: float = 0.1,
    floor_backward: float = 0.05,
    cost_ratio: float | None = None,
    predictor_bits: int = 20,
    starts: dict[int, float] | None = None,
    **stages: Any,
) -> Method:
    """Threshold sampling at both gates, label-crossed hashed predictor, automatic stages.

    train, score: shares of the stream that closed gates let through; by default those at which
    variance x cost is least. least: share trained on at least, where it is not given: for the
    number of optimizer steps. budget: instead of all these, the total cost as a share of plain
    training's (see `Budget`). cost_ratio: see `Automatic`; measured by default. starts: stages by
    hand (see `Fixed`), which choose no share, so give `score` too.
    Further settings go to `Automatic` or `Budget`.
    """
    if budget is not None and (train, score, starts) != (None, None, None):
        raise ConfigError("budget sets shares and stages: leave out train, score and starts")
    rule = ThresholdSampling(score, floor_forward, seed=2 * seed)
    forward = PredictorGate(SizeRegression(predictor_bits), rule, audit, seed)
    backward = ThresholdSampling(
        train,
        floor_backward,
        seed=2 * seed + 1,
        cost_ratio=cost_ratio,
        least=least,
    )
    policy: Stages
    opening: Gate = Open()
    if starts is not None:
        if stages:
            raise ConfigError(f"stages are set by hand, so {sorted(stages)} would have no effect")
        policy = Fixed(starts)
    elif budget is not None:
        opening, policy = Random(check_budget(budget), seed, systematic=True), Budget(**stages)
    else:
        policy = Automatic(**stages)
    return Method("finesieve", forward, backward, policy, opening, batch_share=0.5)
