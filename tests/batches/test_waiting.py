"""Batches of like length: the cheapest cut, and how much is gathered before cutting."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from finesieve import Sieve, SieveOptions, methods
from finesieve.scoring.cuts import cut_by_length
from finesieve.scoring.protocol import Scores


def cheapest(lengths, most, overhead):
    """Every way of cutting, one after another."""
    n = len(lengths)
    best = np.inf
    for k in range(n):
        for inner in combinations(range(1, n), k):
            ends = [0, *inner, n]
            sizes = [b - a for a, b in pairwise(ends)]
            if max(sizes) > most:
                continue
            cost = sum(overhead + s * lengths[e - 1] for s, e in zip(sizes, ends[1:], strict=True))
            best = min(best, cost)
    return best


@pytest.mark.parametrize("overhead", [0.0, 5.0, 40.0, 1e6])
def test_no_cut_is_cheaper(overhead):
    dice = np.random.default_rng(3)
    for _ in range(20):
        lengths = np.sort(dice.integers(1, 30, size=dice.integers(1, 10)))
        most = int(dice.integers(1, 6))
        cuts = cut_by_length(lengths, most, overhead)
        assert np.concatenate([np.arange(len(lengths))[c] for c in cuts]).tolist() == list(
            range(len(lengths))
        )
        sizes = [c.stop - c.start for c in cuts]
        assert max(sizes) <= most
        cost = sum(overhead + (c.stop - c.start) * lengths[c.stop - 1] for c in cuts)
        assert cost == pytest.approx(cheapest(lengths, most, overhead))


def one_by_one(lengths, most, overhead):
    """The same recurrence, end after end."""
    longest = np.asarray(lengths, dtype=np.float64)
    n = len(longest)
    least, begin = np.zeros(n + 1), np.zeros(n + 1, dtype=np.int64)
    for end in range(1, n + 1):
        first = max(0, end - most)
        costs = least[first:end] + (end - np.arange(first, end)) * longest[end - 1]
        best = int(costs.argmin())
        least[end], begin[end] = costs[best] + overhead, first + best
    cuts, end = [], n
    while end > 0:
        cuts.append(slice(int(begin[end]), end))
        end = int(begin[end])
    return cuts[::-1]


def test_many_ends_at_once_are_cut_as_one_by_one():
    """Ties and rounding too: to the same places exactly."""
    dice = np.random.default_rng(0)
    for _ in range(150):
        n, widest = int(dice.integers(0, 300)), int(dice.choice([1, 3, 40, 600]))
        lengths = np.sort(dice.integers(0, widest + 1, n))
        most, overhead = int(dice.integers(1, 90)), float(dice.choice([0.0, 0.1, 7.3, 64.0, 3e4]))
        assert cut_by_length(lengths, most, overhead) == one_by_one(lengths, most, overhead)


def test_nothing_to_cut():
    assert cut_by_length([], 4, 1.0) == []


def test_dear_forwards_make_fewer_batches():
    lengths = np.arange(1, 65)
    assert len(cut_by_length(lengths, 64, 1e6)) == 1
    assert len(cut_by_length(lengths, 64, 0.0)) == 64


def batches(n, size=4):
    for i in range(0, n, size):
        yield {
            "input_ids": torch.arange(i, min(n, i + size)).unsqueeze(1),
            "labels": torch.zeros(min(n, i + size) - i, dtype=torch.long),
        }


def zeros(batch):
    nothing = np.zeros(len(batch["labels"]), np.float32)
    return Scores(nothing, nothing)


@pytest.mark.parametrize(
    ("method", "total", "size"),
    [
        ("finesieve", 8000, 16),
        ("finesieve", None, 16),
        ("finesieve", 64_000, 32),
        ("finesieve", 63_000, 16),
        ("paper", 8000, 16),
        ("top-loss", 8000, 32),
    ],
)
def test_survivors_batches_are_the_methods_share_of_the_loaders(method, total, size):
    sieve = Sieve(scorer=zeros, method=methods.registry.build(method), total=total)
    next(iter(sieve(batches(640, 32))))
    assert sieve._flow.batch_size == size
    given = Sieve(
        scorer=zeros,
        method=methods.registry.build(method),
        total=8000,
        options=SieveOptions(batch_size=7),
    )
    next(iter(given(batches(640, 32))))
    assert given._flow.batch_size == 7
