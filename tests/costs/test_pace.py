"""The pace: what a batch takes by launches and by compute, without what is not its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finesieve.costs.pace import Pace, again, launch, quantile

SIZES = np.random.default_rng(1).integers(50, 400, 200)


def paced(a: float, b: float, noise: float = 0.0, seed: int = 0) -> Pace:
    dice, pace = np.random.default_rng(seed), Pace()
    for size in SIZES[:80]:
        pace.add((a + b * size) * float(np.exp(noise * dice.standard_normal())), int(size))
    return pace


@pytest.mark.parametrize(("a", "b"), [(2.0, 0.01), (0.2, 0.02), (0.0, 0.01), (3.0, 0.0)])
def test_launches_and_compute_are_told_apart(a: float, b: float) -> None:
    line = paced(a, b).line()
    assert line is not None
    assert (line.a, line.b) == pytest.approx((a, b), rel=1e-6, abs=1e-6)
    assert line.per_token(100.0) == pytest.approx(a / 100 + b)
    noisy = paced(a, b, noise=0.1).line()
    assert noisy is not None
    for size in (100.0, 200.0, 400.0):
        assert noisy.per_token(size) == pytest.approx(a / size + b, rel=0.1)


def test_where_sizes_do_not_differ_a_launch_is_worth_what_it_was() -> None:
    pace = paced(2.0, 0.01)
    assert pace.launch() == pytest.approx(200.0)
    for _ in range(80):
        pace.add(3.0, 100)
    line = pace.line()
    assert line is not None
    assert line.a / line.b == pytest.approx(200.0)
    assert line.per_token() == pytest.approx(0.03)
    fresh = Pace()
    for _ in range(20):
        fresh.add(3.0, 100)
    assert fresh.launch() is None
    plain, told, free = fresh.line(), fresh.line(200.0), fresh.line(math.inf)
    assert plain is not None
    assert told is not None
    assert free is not None
    assert plain[:2] == pytest.approx((0.0, 0.03))
    assert told[:2] == pytest.approx((2.0, 0.01))
    assert free[:2] == (3.0, 0.0)
    fresh.add(30.0, 900)  # one batch that differs is no slope
    assert launch(fresh.seen) is None


def test_first_batches_and_what_is_not_its_own_are_left_out() -> None:
    pace = Pace()
    assert pace.per_token is None
    for seconds in (90.0, 30.0, 2.0, 2.0):  # memory is allocated, kernels are compiled
        pace.add(seconds, 10)
    assert pace.per_token is None
    for _ in range(40):
        pace.add(1.0, 10)
    pace.add(30.0, 10)  # an evaluation
    pace.add(5.0, 0)
    pace.add(2.0, 20, batches=2)
    assert pace.per_token == pytest.approx(0.1)
    again = Pace()
    again.load_state_dict(pace.state_dict())
    assert again.per_token == pace.per_token
    again.add(90.0, 10)  # of a new process
    assert again.per_token == pace.per_token


def test_the_first_batch_of_a_shape_is_left_out_where_there_are_others() -> None:
    pace = Pace()
    for i in range(60):
        pace.add(2.0 if i % 20 < 10 and i < 30 else 1.0, 10, shape=(8, i % 30))
    assert pace.per_token == pytest.approx(0.1)
    alone = Pace()
    for i in range(60):  # no shape comes twice
        alone.add(2.0, 10, shape=(8, i))
    assert alone.per_token == pytest.approx(0.2)


def test_it_follows_a_device_that_becomes_slower() -> None:
    pace = paced(0.0, 0.01)
    for size in SIZES[:32]:
        pace.add(0.02 * size, int(size))
    assert pace.per_token == pytest.approx(0.02)
    pace.forget()
    assert pace.per_token is None
    assert pace.launch() is not None


@pytest.mark.parametrize("at_once", [2, 4, 8, 16])
def test_hosts_that_never_tell_what_they_trained_on(at_once: int) -> None:
    """They take many batches at once, then train on them."""
    pace = Pace()
    for i in range(400):
        pace.add(at_once * 1.0 if i % at_once == at_once - 1 else 1e-5, 10)
    assert pace.per_token == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 64])
def test_quantiles_are_those_of_numpy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    for share in (0.0, 0.25, 0.5, 0.62, 1.0):
        assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)))
    assert quantile(values) == pytest.approx(float(np.median(values)))


def test_a_launch_is_measured_often_at_first_and_seldom_later() -> None:
    """It takes a tenth of a millisecond, and hardly changes once a hundred batches were seen."""
    counts, count = [], 0
    while count < 2048:
        count = again(count)
        counts.append(count)
    assert counts[:3] == [8, 16, 24]
    assert np.diff(counts[-4:]).tolist() == [64, 64, 64]
