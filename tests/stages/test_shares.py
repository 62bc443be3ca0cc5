"""Shares: what a policy decides on, and the gates' own settings that it goes by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import finesieve as fs
from finesieve.gates.protocol import Limits
from finesieve.stages.policy import OWN, Decision, Shares, View
from finesieve.stages.window import Window
from tests.conftest import TableScorer, make_batches
from tests.stages.kit import limits, view
from tests.stages.test_stages import feed


def test_the_policy_asks_for_the_cheapest_share() -> None:
    policy = fs.Automatic()
    prices = dict.fromkeys(policy.SHARES, 0.5)
    prices.update({0.3: 0.4, 0.35: 0.407})
    found = policy.next(2, [1.0, 0.5, 0.6, *prices.values()], OWN)
    assert found.move is not None
    assert found.shares == Shares(score=0.3)
    unknown = [float("inf")] * (1 + len(policy.SHARES))
    for ready in (0.0, 1.0):  # nothing is known: what was decided stays
        assert policy.next(3, [ready, 0.0, *unknown], found.shares).shares == found.shares


def test_a_forward_gate_with_a_share_of_its_own_keeps_it() -> None:
    policy = fs.Automatic(patience=64)
    window = Window(64)
    size = np.random.default_rng(0).lognormal(0, 2, 64).astype(np.float32)
    window.add(fs.Offer(np.arange(64), loss=size, size=size, predicted=size))
    seen = view(2, 0.5, 64, window)
    free = policy.evidence(seen)
    own = limits(forward=Limits(share=0.35))
    bound = policy.evidence(replace(seen, limits=own))
    assert bound == [*free[:3], free[3 + policy.SHARES.index(0.35)]]
    assert policy.next(2, bound, OWN).shares == OWN
    assert policy.next(2, free, OWN).shares.score in policy.SHARES
    early = replace(seen, since=63, limits=own)
    assert len(policy.evidence(early)) == len(bound)


def test_the_first_stage_lasts_a_pool_and_later_ones_the_patience() -> None:
    policy = fs.Automatic(warmup=0.0)
    window = Window(2048)
    size = np.random.default_rng(0).lognormal(0, 2, 256).astype(np.float32)

    def ready(stage: int, since: int) -> bool:
        return policy.evidence(view(stage, 0.5, since, window))[0] == 1.0

    window.add(fs.Offer(np.arange(255), loss=size[1:], size=size[1:]))
    assert not ready(1, 255)
    window.add(fs.Offer(np.arange(1), loss=size[:1], size=size[:1]))
    assert ready(1, 256)
    for _ in range(3):
        window.add(fs.Offer(np.arange(256), loss=size, size=size))
        assert not ready(2, window.revealed - 256)
    window.add(fs.Offer(np.arange(256), loss=size, size=size))
    assert ready(2, 1024)
    assert not ready(1, 768)  # opened again: not the first stage


def test_classes_are_priced_with_what_they_keep_at_least() -> None:
    """A class that is small and easy makes closed gates dearer, for its examples are kept."""
    policy, prices = fs.Automatic(patience=64), []
    size = np.where(np.arange(64) < 16, 0.01, np.random.default_rng(0).lognormal(0, 2, 64))
    for label in (np.zeros(64, np.int64), (np.arange(64) < 16).astype(np.int64)):
        window = Window(64)
        features = fs.Features(np.zeros((64, 1), np.int64), label)
        window.add(
            fs.Offer(np.arange(64), features=features, size=size.astype(np.float32), loss=size)
        )
        own = limits(backward=Limits(least=0.5, floor=0.02))
        prices.append(policy.evidence(view(2, 0.5, 64, window, limits=own))[2])
    assert prices[1] > prices[0] * 1.01


def test_prices_go_by_the_settings_of_the_gates() -> None:
    """Each of them changes the price that it belongs to."""
    policy = fs.Automatic(patience=64)
    window = Window(64)
    dice = np.random.default_rng(0)
    size = dice.lognormal(0, 2, 64).astype(np.float32)
    window.add(fs.Offer(np.arange(64), loss=size, size=size, predicted=dice.permutation(size)))

    def prices(forward: Limits, backward: Limits) -> list[float]:
        own = limits(forward=forward, backward=backward)
        return policy.evidence(view(2, 0.5, 64, window, limits=own))[2:]

    gate = fs.PredictorGate(fs.SizeRegression(8), fs.ThresholdSampling(0.4, 0.1), 0.05)
    assert gate.limits() == Limits(share=0.4, floor=0.1, audit=0.05)
    behind = fs.ThresholdSampling(None, 0.05, cost_ratio=0.3, least=0.2).limits()
    assert behind == Limits(least=0.2, floor=0.05, cost_ratio=0.3)
    usual = prices(gate.limits(), behind)
    for change in ({"audit": 0.5}, {"floor": 0.5}, {"share": 0.5}):
        other = prices(replace(gate.limits(), **change), behind)
        assert other[0] == usual[0]
        assert other[1] != usual[1]
    for change in ({"least": 0.9}, {"floor": 0.5}, {"share": 0.5}, {"cost_ratio": 0.1}):
        other = prices(gate.limits(), replace(behind, **change))
        assert other[0] != usual[0]
        assert other[1] != usual[1]


def test_gates_keep_the_shares_that_a_policy_decides_on() -> None:
    """They are shown to the gates, kept over a restart, and no gate is changed by them."""

    class Steps(fs.Stages):
        def evidence(self, view: View) -> list[float]:
            return [view.share]

        def next(self, stage: int, numbers: list[float], shares: Shares) -> Decision:
            if numbers[0] < 0.5:
                return Decision(None, Shares(opening=0.25))
            return Decision((3, "half") if stage == 1 else None, Shares(score=0.5, train=0.125))

    asked: list[tuple[str, float | None]] = []

    class Watching(fs.Gate):
        def __init__(self, name: str) -> None:
            self.name = name

        def decide(self, offer: fs.Offer) -> fs.Verdict:
            asked.append((self.name, offer.share))
            return fs.Verdict(np.ones(offer.n, np.bool_))

    names = ("forward", "backward", "opening")
    forward, backward, opening = map(Watching, names)
    method = fs.Method("steps", forward, backward, Steps(), opening)
    sieve = fs.Sieve(
        scorer=TableScorer(), method=method, total=1000, options=fs.SieveOptions(pool=50, group=2)
    )
    feed(sieve, make_batches(1000))
    # The first pools are decided on before the policy was asked for the first time.
    shares = [share for name, share in asked if name == "opening"]
    first = shares.index(0.25)
    assert shares == [None] * first + [0.25] * (len(shares) - first)
    assert first < len(shares) / 2
    assert {share for name, share in asked if name == "forward"} == {0.5}
    assert {share for name, share in asked if name == "backward"} == {0.125}
    twin = fs.Sieve(
        scorer=TableScorer(),
        method=replace(method, stages=Steps()),
        total=1000,
        options=fs.SieveOptions(pool=50, group=2),
    )
    twin.load_state_dict(sieve.state_dict())
    assert twin._flow.transitions.shares == Shares(score=0.5, train=0.125)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_what_is_no_share_cannot_be_decided_on(share: float) -> None:
    with pytest.raises(fs.ConfigError, match="the policy's share `train` is"):
        Shares(train=share)
