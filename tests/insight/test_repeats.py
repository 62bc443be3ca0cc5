"""Copies and edited copies are found, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from finesieve.insight import repeats as module
from finesieve.insight.repeats import repeats

WORDS = [f"{a}{b}{c}" for a in ("bro", "cla", "vim", "sto") for b in "aeiou" for c in "nrtdk"]


def texts(n: int, seed: int = 0) -> list[str]:
    dice = np.random.default_rng(seed)
    return [" ".join(dice.choice(WORDS, int(dice.integers(12, 20)))) for _ in range(n)]


def test_injected_copies_are_found() -> None:
    plain = texts(1500)
    copies = [plain[i].upper() + " " for i in range(100)]  # case and blanks do not count
    edited = []
    for i in range(100, 200):
        words = plain[i].split()
        words[i % len(words)] = "changed"
        edited.append(" ".join(words))
    exact, near = repeats([*plain, *copies, *edited])
    assert np.array_equal(exact[1500:1600], np.arange(100))
    found = near[1600:] == np.arange(100, 200)
    assert found.mean() > 0.95  # recall
    rest = np.r_[0:1500]
    assert np.array_equal(near[rest], rest)  # precision: no two of the plain ones
    assert np.array_equal(near[exact], near)


def test_texts_that_share_two_thirds_of_their_words_are_no_repeats() -> None:
    plain = texts(300)
    other = texts(300, seed=1)
    mixed = [
        " ".join(a.split()[: 2 * len(a.split()) // 3] + b.split()[:5])
        for a, b in zip(plain, other, strict=True)
    ]
    _, near = repeats([*plain, *mixed])
    assert (near[300:] == np.arange(300)).mean() < 0.1


def test_short_and_empty_texts_repeat_only_exactly() -> None:
    exact, near = repeats(["yes", "no", "", "yes", "", "yes!"])
    assert exact.tolist() == near.tolist() == [0, 1, 2, 0, 2, 5]


def test_groups_do_not_depend_on_how_many_texts_there_are_at_once() -> None:
    some = texts(300)
    some += [text + " end" for text in some[:50]]
    alone = repeats(some)[1]
    more = repeats([*some, *texts(500, seed=1)])[1]
    assert np.array_equal(alone, more[: len(some)])
    assert np.array_equal(alone[300:], np.arange(50))


def test_pairs_that_are_not_alike_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = texts(1500)
    alike_by_half = [" ".join(a.split()[:8] + b.split()[:7]) for a, b in pairwise(plain)]
    plain += alike_by_half + [text + " end" for text in plain[:50]]
    compared: list[tuple[int, int]] = []
    whole = module._Texts.alike

    def counted(self: module._Texts, a: int, b: int, least: float = module.ALIKE) -> bool:
        if least == module.ALIKE:
            compared.append((min(a, b), max(a, b)))
        return whole(self, a, b, least)

    monkeypatch.setattr(module._Texts, "alike", counted)
    found, once = repeats(plain), compared.copy()
    compared.clear()
    monkeypatch.setattr(module._Refused, "without", lambda self, pairs: pairs)
    again = repeats(plain)
    assert np.array_equal(found[1], again[1])
    assert len(compared) > len(set(compared)) + 50  # there is something to save
    assert len(once) < len(compared) - 50
    compared.clear()
    monkeypatch.undo()
    monkeypatch.setattr(module, "_REMEMBERED", 3)  # most are forgotten at once
    assert np.array_equal(found[1], repeats(plain)[1])
