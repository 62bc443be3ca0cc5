"""Losses that come back are matched by id as one dict of everything that is out would do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import finesieve as fs
from finesieve.gates.protocol import Features
from finesieve.sieve.returns import Returns


class Naive:
    """An entry for each example."""

    def __init__(self) -> None:
        self.out: dict[int, tuple[list[int] | None, int, float | None, float]] = {}

    def expect(self, ids: Any, features: Features | None, probability: Any) -> None:
        for i, key in enumerate(ids.tolist()):
            self.out.pop(key, None)
            p = 1.0 if probability is None else float(probability[i])
            if features is None:
                self.out[key] = None, 0, None, p
            else:
                targets = None if features.targets is None else float(features.targets[i])
                self.out[key] = features.tokens[i].tolist(), int(features.cross[i]), targets, p

    def collect(self, batches: list[Any]) -> Iterator[Any]:
        for ids, losses, sizes in batches:
            found = [(i, self.out.pop(key, None)) for i, key in enumerate(ids.tolist())]
            used = [(i, e) for i, e in found if e is not None and np.isfinite(losses[i])]
            if not used:
                yield None
                continue
            rows = [e[0] for _, e in used if e[0] is not None]
            width = max(map(len, rows), default=0)
            targets = [e[2] for _, e in used]
            known = len(rows) == len(used)
            yield {
                "ids": [int(ids[i]) for i, _ in used],
                "loss": [float(losses[i]) for i, _ in used],
                "size": None if sizes is None else [float(sizes[i]) for i, _ in used],
                "probability": [e[3] for _, e in used],
                "tokens": [r + [-1] * (width - len(r)) for r in rows] if known else None,
                "cross": [e[1] for _, e in used] if known else None,
                "targets": targets if known and None not in targets else None,
            }


def told(offer: fs.Offer | None) -> Any:
    if offer is None:
        return None
    f = offer.features
    assert offer.loss is not None
    assert offer.probability is not None
    return {
        "ids": offer.ids.tolist(),
        "loss": offer.loss.tolist(),
        "size": None if offer.size is None else offer.size.tolist(),
        "probability": offer.probability.tolist(),
        "tokens": None if f is None else f.tokens.tolist(),
        "cross": None if f is None else f.cross.tolist(),
        "targets": None if f is None or f.targets is None else f.targets.tolist(),
    }


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_as_a_dict_with_an_entry_per_example(seed: int, saved: bool) -> None:
    """Whole batches, parts of several, ids that come twice or are unknown, losses that are NaN,
    features or none; with a state that is saved and loaded in between."""
    dice = np.random.default_rng(seed)
    returns, naive = Returns(10_000), Naive()
    handed: list[Any] = []
    for _ in range(12):
        if dice.random() < 0.5:
            n = int(dice.integers(1, 6))
            ids = dice.choice(30, n, replace=False).astype(np.int64)
            features = None
            if dice.random() < 0.9:
                targets = dice.random(n).astype(np.float32) if dice.random() < 0.8 else None
                tokens = dice.integers(-1, 9, (n, int(dice.integers(1, 4))))
                features = Features(tokens, dice.integers(0, 3, n), targets)
            p = dice.random(n).astype(np.float32) if dice.random() < 0.5 else None
            returns.expect(ids, features, p, 0)
            naive.expect(ids, features, p)
            handed.append(ids)
            continue
        batches = []
        for _ in range(int(dice.integers(0, 4))):
            if handed and dice.random() < 0.5:
                ids = handed[int(dice.integers(len(handed)))]  # whole
            else:
                ids = dice.integers(0, 32, int(dice.integers(1, 9)))
            losses = dice.random(len(ids)).astype(np.float32)
            losses[dice.random(len(ids)) < 0.1] = np.nan
            sizes = dice.random(len(ids)).astype(np.float32) if dice.random() < 0.3 else None
            batches.append((ids, losses, sizes))
            returns.give(
                torch.from_numpy(ids),
                torch.from_numpy(losses),
                None if sizes is None else torch.from_numpy(sizes),
            )
        if saved:
            other = Returns(10_000)
            other.load_state_dict(returns.state_dict())
            returns = other
        assert returns.waiting == len(batches)
        found = list(returns.collect())
        assert [ids.tolist() for ids, *_ in found] == [ids.tolist() for ids, *_ in batches]
        assert [told(offer) for *_, offer in found] == list(naive.collect(batches))
        if batches:  # an id that was handed out twice is counted once from then on
            assert len(returns) == len(naive.out)


def test_the_oldest_are_forgotten_where_too_many_are_out() -> None:
    returns = Returns(40)
    for begin in range(0, 48, 8):
        returns.expect(np.arange(begin, begin + 8), None, None, 0)
    returns.give(torch.tensor([20]), torch.tensor([0.5]))  # a loss has come back before
    assert [offer.n for *_, offer in returns.collect()] == [1]
    for begin in range(48, 200, 2):
        returns.expect(np.arange(begin, begin + 2), None, None, 0)
        assert len(returns) <= 48
    returns.give(torch.arange(200), torch.ones(200))
    (found,) = [offer.ids.tolist() for *_, offer in returns.collect()]
    assert found == list(range(200 - len(found), 200))
    silent = Returns(40)
    for begin in range(0, 51, 3):
        silent.expect(np.arange(begin, begin + 3), None, None, 0)
    with pytest.raises(fs.ConfigError, match="51 examples were handed out and no loss came back"):
        silent.expect(np.arange(51, 54), None, None, 0)


def test_an_id_that_is_handed_out_again_is_out_once() -> None:
    returns = Returns(40)
    for _ in range(1000):  # one pass after another, none of which gives its losses back
        returns.expect(np.arange(16), None, None, 0)
        assert len(returns) <= 16 * 18
