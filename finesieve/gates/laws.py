"""Public laws that every gate must obey; run your own gate through `check_gate`.

Each law is a function of a gate factory (a callable without arguments that makes a fresh gate)
and raises `LawError`, an `AssertionError`, with an explanation when the law is broken; also under
`python -O`, which leaves out `assert`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from finesieve.errors import LawError
from finesieve.gates.protocol import Features, Gate, Offer

Factory = Callable[[], Gate]


def sample_offers(seed: int = 0, count: int = 6, n: int = 64, stage: int = 2) -> Iterator[Offer]:
    """Yields offers of n examples in which everything is known: what any gate may be shown.

    Sizes are log-normal, losses grow with them, tokens tell a little about them.
    """
    dice = np.random.default_rng(seed)
    for i in range(count):
        size = dice.lognormal(-1.0, 1.0, n).astype(np.float32)
        tokens = dice.integers(0, 500, (n, 12))
        tokens[:, 0] = 500 + (size > 0.4)
        tokens[dice.random((n, 12)) < 0.2] = -1
        loss = (size + dice.random(n) * 0.1).astype(np.float32)
        yield Offer(
            ids=np.arange(i * n, (i + 1) * n, dtype=np.int64),
            stage=stage,
            features=Features(
                tokens.astype(np.int64),
                dice.integers(0, 2, n),
                (tokens >= 0).sum(axis=1).astype(np.float32),
            ),
            loss=loss,
            size=size,
            keep=loss > 0.4,
        )


def _must(holds: object, broken: str) -> None:
    """Raises `LawError` with this explanation unless `holds` is true."""
    if not holds:
        raise LawError(broken)


def _trained(factory: Factory) -> Gate:
    """Returns a gate that has learned from some offers of stage 1."""
    gate = factory()
    for offer in sample_offers(0, stage=1):
        gate.learn(offer)
    return gate


def _round_trip(gate: Gate) -> Any:
    buffer = io.BytesIO()
    torch.save(gate.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    return bool(a == b) or (a != a and b != b)


def _without_dice(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: _without_dice(v) for k, v in state.items() if k != "generator"}
    return state


def law_answers_every_example(factory: Factory) -> None:
    """Checks that a verdict has keep, bool[n], and probability, None or float[n] in [0, 1], not 0
    if kept."""
    gate = _trained(factory)
    for offer in sample_offers(1):
        verdict = gate.decide(offer).check(offer.n, gate)
        if verdict.probability is not None:
            p = verdict.probability
            _must(np.all((p >= 0) & (p <= 1)), "a probability outside [0, 1]")
            _must(not verdict.keep[p == 0].any(), "kept although its probability is 0")
            _must(verdict.keep[p == 1].all(), "dropped although its probability is 1")


def law_empty_offer(factory: Factory) -> None:
    """Checks that an offer of no examples is decided on and learned without complaint."""
    gate = _trained(factory)
    nothing = next(sample_offers(1, n=0))
    _must(gate.decide(nothing).keep.shape == (0,), "keep for no examples must have shape (0,)")
    gate.learn(nothing)


def law_deciding_does_not_learn(factory: Factory) -> None:
    """Checks that `decide` changes nothing but the state of random generators."""
    gate = _trained(factory)
    before = _without_dice(_round_trip(gate))
    for offer in sample_offers(2):
        gate.decide(offer)
    after = _without_dice(_round_trip(gate))
    _must(_same(before, after), "decide changed the gate's state: only learn may")


def law_does_not_change_the_offer(factory: Factory) -> None:
    """Checks that neither `decide` nor `learn` writes into what it is shown."""
    gate = _trained(factory)
    for offer, copy in zip(sample_offers(3), sample_offers(3), strict=True):
        gate.decide(offer)
        gate.learn(offer)
        for name in ("ids", "loss", "size", "keep"):
            same = np.array_equal(getattr(offer, name), getattr(copy, name))
            _must(same, f"the gate wrote into the offer's {name}")
        for name in ("tokens", "cross"):
            same = np.array_equal(getattr(offer.features, name), getattr(copy.features, name))
            _must(same, f"the gate wrote into the offer's features' {name}")


def law_state_is_whole(factory: Factory) -> None:
    """Checks that a gate restored from its state (loaded with weights_only=True) goes on exactly
    alike."""
    gate = _trained(factory)
    for offer in sample_offers(4, count=2):
        gate.decide(offer)
    twin = factory()
    twin.load_state_dict(_round_trip(gate))
    for offer in sample_offers(5):
        a, b = gate.decide(offer), twin.decide(offer)
        _must(np.array_equal(a.keep, b.keep), "a restored gate decides otherwise")
        _must(
            _same(
                *(
                    None if v.probability is None else torch.from_numpy(v.probability)
                    for v in (a, b)
                )
            ),
            "a restored gate has other probabilities",
        )
        gate.learn(offer)
        twin.learn(offer)
    _must(_same(_round_trip(gate), _round_trip(twin)), "a restored gate learns otherwise")


def law_unbiased(factory: Factory, rounds: int = 400) -> None:
    """Checks of a gate that weighs that the weighted sum of any quantity is right on average (z <
    4.5); also for examples that got to it with a probability of their own, as behind a closed
    forward gate."""
    gate = _trained(factory)
    first = replace(next(sample_offers(6, n=128)), keep=None)
    passed = np.random.default_rng(7).uniform(0.1, 1.0, first.n).astype(np.float32)
    for offer in (first, replace(first, stage=3, probability=passed)):
        _unbiased(gate, offer, rounds)


def _unbiased(gate: Gate, offer: Offer, rounds: int) -> None:
    if gate.decide(offer).probability is None:
        return
    for value in (np.ones(offer.n), np.asarray(offer.size, dtype=np.float64)):
        sums = []
        for _ in range(rounds):
            verdict = gate.decide(offer)
            if verdict.probability is None:
                raise LawError("the gate gives probabilities now and then: always, or never")
            kept = verdict.keep
            sums.append(float((value[kept] / verdict.probability[kept]).sum()))
        error = float(np.mean(sums)) - float(value.sum())
        spread = float(np.std(sums)) / np.sqrt(rounds) + 1e-6 * float(value.sum())
        _must(
            abs(error) < 4.5 * spread,
            f"the weighted sum is off by {error:.3g}, {error / spread:.1f} standard errors: the "
            "probabilities given are not those with which it keeps",
        )


LAWS: dict[str, Callable[[Factory], None]] = {
    law.__name__: law
    for law in (
        law_answers_every_example,
        law_empty_offer,
        law_deciding_does_not_learn,
        law_does_not_change_the_offer,
        law_state_is_whole,
        law_unbiased,
    )
}


def check_gate(factory: Factory) -> None:
    """Runs a gate through every law; `factory` makes a fresh one, always with the same seed.

    Raises:
        LawError: for the first law that is broken.
    """
    for law in LAWS.values():
        law(factory)
