"""The functions that build a method, by name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from finesieve.errors import ConfigError, check_share
from finesieve.gates.forward import PredictorGate
from finesieve.gates.predictor import SizeRegression
from finesieve.gates.protocol import Gate
from finesieve.gates.sampling import ThresholdSampling
from finesieve.gates.simple import Open, Random
from finesieve.methods.baselines.infobatch import Annealed, InfoBatch
from finesieve.methods.baselines.loss_rules import (
    LossSampling,
    Quantile,
    SelectiveBackprop,
    TopLoss,
)
from finesieve.methods.baselines.naive_bayes import NaiveBayes
from finesieve.methods.baselines.paper import CutOff, LossThreshold, Paper
from finesieve.methods.baselines.rho_loss import Reducible
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
    systematic: bool | None = None,
    **stages: Any,
) -> Method:
    """Threshold sampling at both gates, label-crossed hashed predictor, automatic stages.

    train, score: shares of the stream that closed gates let through; by default those at which
    variance x cost is least. least: share trained on at least, where it is not given: for the
    number of optimizer steps. budget: instead of all these, the total cost as a share of plain
    training's (see `Budget`). cost_ratio: see `Automatic`; measured by default. starts: stages by
    hand (see `Fixed`); 0.4 of the stream is then scored in stage 3, unless `score` says otherwise.
    systematic: keep of every label and size as many as expected instead of rolling for each example
    alone; by default with a budget. Further settings go to `Automatic` or `Budget`.
    """
    if budget is not None and (train, score, starts) != (None, None, None):
        raise ConfigError("budget sets shares and stages: leave out train, score and starts")
    systematic = budget is not None if systematic is None else systematic
    if score is None and starts is not None:
        score = 0.4  # other policies choose
    rule = ThresholdSampling(score, floor_forward, seed=2 * seed, systematic=systematic)
    forward = PredictorGate(SizeRegression(predictor_bits), rule, audit, seed)
    backward = ThresholdSampling(
        train, floor_backward, seed=2 * seed + 1, cost_ratio=cost_ratio, least=least,
        systematic=systematic,
    )
    policy: Stages
    opening: Gate = Open()
    if starts is not None:
        if stages:
            raise ConfigError(f"stages are set by hand, so {sorted(stages)} would have no effect")
        policy = Fixed(starts)
    elif budget is not None:
        opening, policy = Random(check_budget(budget), seed, systematic), Budget(**stages)
    else:
        policy = Automatic(**stages)
    return Method("finesieve", forward, backward, policy, opening, batch_share=0.5)


def paper(
    seed: int = 0,
    warmup: float = 0.05,
    log_loss: float = 0.6,
    history: int = 128,
    audit: float = 0.02,
    vocabulary: int = 32768,
    **stages: Any,
) -> Method:
    """Ouyang et al. 2023 with its plain defects mended: half batches instead of single examples
    in stage 3, no second forward, schedule by share of the stream, an audit, and a naive Bayes
    that takes absent tokens for no evidence. Unweighted."""
    bayes = NaiveBayes(vocabulary, absent=False)
    forward = PredictorGate(bayes, CutOff(0.5), audit, seed)
    return Method(
        "paper", forward, LossThreshold(history), Paper(warmup, log_loss, **stages),
        batch_share=0.5,
    )


def authors(
    seed: int = 0,
    warmup: float = 0.05,
    log_loss: float = 0.6,
    history: int = 128,
    vocabulary: int = 32768,
    **stages: Any,
) -> Method:
    """Ouyang et al. 2023 as the authors' scripts do it: frozen threshold, naive Bayes on the
    presence of every word piece, without label or audit, a second forward for what is trained
    on, single examples in stage 3, learning rate by optimizer steps (so that the single examples
    use it up). Departs from them in padding (to the batch, not to 512 tokens) and in training on
    the rest of the queue at the end."""
    bayes = NaiveBayes(vocabulary, absent=True)
    return Method(
        "authors", PredictorGate(bayes, CutOff(0.5), 0.0, seed), LossThreshold(history),
        Paper(warmup, log_loss, **stages), batches={3: 1}, schedule_by="steps",
    )


def full(seed: int = 0) -> Method:
    """Plain training: both gates stay open."""
    return Method("full", Open(), Open(), Fixed({}))


def random(seed: int = 0, share: float = 0.3) -> Method:
    """A random subset, drawn anew in each pass. Nothing is scored."""
    return Method("random", Random(share, seed), Open(), Fixed({3: 0.0}))


def quantile(seed: int = 0, train: float = 0.2, warmup: float = 0.05) -> Method:
    """The examples with the highest losses, unweighted. Here as a warning: it can collapse."""
    return Method("quantile", Open(), Quantile(train), Fixed({2: warmup}))


def selective_backprop(
    seed: int = 0, beta: float = 2.0, window: int = 1024, warmup: float = 0.02
) -> Method:
    """Jiang et al. 2019: everything is scored, kept with probability percentile ** beta,
    unweighted, full batches. Departs from the paper in a short warm-up on everything, in which
    the history fills; the paper fills it with the first batches' forwards."""
    gate = SelectiveBackprop(beta, window, seed)
    return Method("selective-backprop", Open(), gate, Fixed({2: warmup}))


def top_loss(seed: int = 0, train: float = 0.3, warmup: float = 0.05) -> Method:
    """Kawaguchi & Lu 2020: the share of each pool with the highest losses, unweighted. Departs
    from the paper in choosing from the sieve's pools (256 examples) instead of mini-batches."""
    return Method("top-loss", Open(), TopLoss(train), Fixed({2: warmup}))


def loss_sampling(
    seed: int = 0, train: float = 0.3, floor: float = 0.05, warmup: float = 0.05
) -> Method:
    """Sampling in proportion to the loss with inverse-probability weights, everything scored:
    top-loss made unbiased (Katharopoulos & Fleuret 2018)."""
    return Method("loss-sampling", Open(), LossSampling(train, floor, seed), Fixed({2: warmup}))


def infobatch(seed: int = 0, share: float = 0.5, until: float = 0.875) -> Method:
    """Qin et al. 2024 (InfoBatch): from the second pass on a share of the examples whose last
    loss was below the mean is left out, the rest of them weighs more; nothing is scored."""
    return Method("infobatch", InfoBatch(share, seed), Open(), Annealed(until))


def rho_loss(
    seed: int = 0, train: float = 0.3, holdout: float = 0.2, warmup: float = 0.05
) -> Method:
    """Mindermann et al. 2022 (RHO-loss): everything is scored, the share with the highest
    reducible loss is trained on. The reference model is of the same kind, trained for one pass on
    a holdout of the training examples, on which the model itself is then not trained."""
    return Method(
        "rho-loss", Open(), Reducible(train), Fixed({2: warmup}),
        reference=check_share("holdout", holdout),
    )


REGISTRY: dict[str, Callable[..., Method]] = {
    "finesieve": finesieve,
    "paper": paper,
    "authors": authors,
    "full": full,
    "random": random,
    "quantile": quantile,
    "selective-backprop": selective_backprop,
    "top-loss": top_loss,
    "loss-sampling": loss_sampling,
    "infobatch": infobatch,
    "rho-loss": rho_loss,
}


def build(name: str, seed: int = 0, /, **settings: Any) -> Method:
    """The method of this name; `ConfigError` with the nearest name or the bad setting.

    name: from the registry, or `module:function` for a function of yours that is called as
    `function(seed=seed, **settings)` and returns a `Method`.
    """
    if ":" in name:
        return _imported(name, seed, settings)
    if name not in REGISTRY:
        near = get_close_matches(name, REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no method {name!r}; there are {', '.join(REGISTRY)}{hint}")
    for key, value in settings.items():
        _check_setting(name, key, value)
    try:
        return REGISTRY[name](seed=seed, **settings)
    except TypeError as error:
        raise ConfigError(f"method {name!r}: {error}") from None


def _imported(name: str, seed: int, settings: dict[str, Any]) -> Method:
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)(seed=seed, **settings)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"method {name!r}: {error}") from None
    if not isinstance(made, Method):
        raise ConfigError(f"{name} gave a {type(made).__name__}; expected a finesieve Method")
    return made


_WHOLE = ("predictor_bits", "patience", "window", "recent", "history", "vocabulary")
_OPTIONAL = ("train", "score", "budget", "cost_ratio", "starts", "systematic")  # None: by itself


def _check_setting(method: str, key: str, value: Any) -> None:
    if key == "seed":
        raise ConfigError("the seed is set for the whole run, not among a method's settings")
    if key == "systematic" and value is not None:
        if not isinstance(value, bool):
            raise ConfigError(f"systematic is {value!r}; expected true or false")
        return
    if key == "starts" and value is not None:
        if not isinstance(value, dict):
            raise ConfigError(f"starts is {value!r}; expected e.g. {{2: 0.05, 3: 0.2}}")
        return
    if value is None and key in _OPTIONAL:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ConfigError(f"setting {key} of {method!r} is {value!r}; expected a finite number")
    if key in _WHOLE and not isinstance(value, int):
        raise ConfigError(f"setting {key} of {method!r} is {value!r}; expected a whole number")
