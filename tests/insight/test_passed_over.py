"""Rows that training passed over are judged by their words; the most doubtful are looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from finesieve.insight import inspecting
from finesieve.insight import passed_over as module
from finesieve.insight.curves import learning_curve
from finesieve.insight.data import Data
from finesieve.insight.embed import Embedded, embed
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.inspecting import look
from finesieve.insight.passed_over import DOUBTED, by_words, passed_over, pooled
from finesieve.insight.visits import Visits
from tests import tiny

N, MET = 500, 300


def texts() -> tuple[list[str], np.ndarray]:
    """Texts in two classes that no word has in common, and their labels."""
    dice = np.random.default_rng(2)
    labels = np.arange(N) % 2
    made = [" ".join(f"w{25 * y + j}" for j in dice.integers(0, 25, 8)) for y in labels]
    return made, labels


def visited(rows: list[str], thorough: bool = False) -> Visits:
    """A training that met the first rows and passed over the others."""
    visits, words = Visits(N, thorough), tiny.tokenizer()
    visits.model = tiny.bert()
    visits.tokens = [np.asarray(words(text)["input_ids"]) for text in rows]
    visits.met[:MET] = True
    visits.end(np.arange(N))
    visits.features = np.zeros((N, 16), dtype=np.float32)
    return visits


def judged(visits: Visits, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    found = by_words(visits.model, visits.tokens, labels, folds_of(labels, groups, 5, 0), 2, 0)
    assert found is not None
    return found


def test_the_doubtful_ones_are_left_to_the_model() -> None:
    rows, labels = texts()
    wrong = [310, 400, 499]
    labels[wrong] = 1 - labels[wrong]
    visits = visited(rows)
    words = judged(visits, labels, np.arange(N))
    found = passed_over(visits, labels, words)
    assert found is not None
    assert len(found) == N - MET - DOUBTED * N
    assert found.min() >= MET
    assert not np.isin(wrong, found).any()
    assert (words.argmax(axis=1) == labels)[found].mean() > 0.95
    assert words.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_no_copy_tells_a_rows_label() -> None:
    """A text is one word, whose label is chance: only a head that has seen a copy could know."""
    group = np.arange(N) % 50
    labels = np.random.default_rng(3).permutation(np.arange(50) % 2)[group]
    visits = visited([f"w{j} " * 8 for j in group])
    alone, told = (
        (judged(visits, labels, groups).argmax(axis=1) == labels).mean()
        for groups in (group, np.arange(N))
    )
    assert alone < 0.6 < 0.65 < told


def test_few_rows_and_a_thorough_look_are_left_to_the_model() -> None:
    rows, labels = texts()
    words = judged(visited(rows), labels, np.arange(N))
    assert passed_over(visited(rows, thorough=True), labels, words) is None
    assert passed_over(visited(rows), labels, None) is None
    visits = visited(rows)
    visits.passed[: N - int(DOUBTED * N)] = False
    assert passed_over(visits, labels, words) is None


def test_without_embeddings_or_tokens_words_say_nothing() -> None:
    rows, labels = texts()
    fold, visits = folds_of(labels, np.arange(N), 5, 0), visited(rows)
    visits.tokens = None
    assert by_words(visits.model, visits.tokens, labels, fold, 2, 0) is None
    visits = visited(rows)
    visits.model = torch.nn.Linear(2, 2)
    assert by_words(visits.model, visits.tokens, labels, fold, 2, 0) is None


def test_many_rows_are_judged_as_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = texts()
    once = judged(visited(rows), labels, np.arange(N))
    monkeypatch.setattr(module, "_TOGETHER", 7)
    assert judged(visited(rows), labels, np.arange(N)) == pytest.approx(once, abs=1e-5)


def test_two_heads_that_err_apart_rank_better_together() -> None:
    dice = np.random.default_rng(5)
    true, n = np.arange(2_000) % 2, 2_000
    wrong = dice.random(n) < 0.1
    labels = np.where(wrong, 1 - true, true)
    heads = []
    for _ in range(2):
        margin = (2.0 * true - 1.0) * 1.5 + dice.normal(0.0, 1.5, n)
        p = 1.0 / (1.0 + np.exp(-margin))
        heads.append(np.stack([1.0 - p, p], axis=1).astype(np.float32))
    both = pooled(*heads)
    assert both.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert both[:, 1] == pytest.approx(  # the mean of the logits
        1 / (1 + np.sqrt(heads[0][:, 0] * heads[1][:, 0] / heads[0][:, 1] / heads[1][:, 1])),
        rel=1e-4,
    )
    hits = [
        wrong[np.argsort(p[np.arange(n), labels])[: wrong.sum()]].mean() for p in (*heads, both)
    ]
    assert hits[2] > max(hits[:2]) + 0.1
    certain = pooled(np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32))
    assert certain == pytest.approx(0.5)


def test_a_look_runs_the_model_on_no_others() -> None:
    rows, labels = texts()
    labels[[1, 450]] = 1 - labels[[1, 450]]
    data = Data("made up", rows, None, labels, ["a", "b"], np.arange(N))
    runs = []
    for thorough in (False, True):
        visits, count = visited(rows, thorough), []
        visits.features = np.random.default_rng(0).normal(0, 0.1, (N, 16)).astype(np.float32)
        visits.features[np.arange(N), labels] += 1.0
        visits.model.register_forward_hook(
            lambda m, a, k, o, c=count: c.append(len(o.logits)), with_kwargs=True
        )
        found = look(
            visits.model, tiny.tokenizer(), data, max_length=16, pool="head", visits=visits
        )
        runs.append(sum(count))
        assert ("judged by their words alone" in " ".join(found.how.split())) != thorough
        assert "A second head" in found.how
        assert found.curve is not None
        assert found.curve.sizes[-1] == pytest.approx(0.8 * N, abs=1)
        assert found.probabilities is not None
        assert found.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        assert found.to_html()
    assert runs == [int(0.1 * N) + int(DOUBTED * N), int(0.2 * N) + N - MET]


def test_both_heads_judge_and_the_curve_is_of_the_features_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, labels = texts()
    labels[:20] = 1 - labels[:20]
    data = Data("made up", rows, None, labels, ["a", "b"], np.arange(N))
    words = judged(visited(rows), labels, np.arange(N))
    found = []
    for said in (words, None):
        visits = visited(rows, thorough=True)
        visits.features = np.random.default_rng(0).normal(0, 0.5, (N, 16)).astype(np.float32)
        visits.features[np.arange(N), labels] += 1.0
        monkeypatch.setattr(inspecting, "by_words", lambda *args, said=said: said)
        found.append(look(visits.model, tiny.tokenizer(), data, pool="head", visits=visits))
    both, alone = (one.probabilities for one in found)
    assert both is not None
    assert alone is not None
    assert both == pytest.approx(pooled(alone, words), abs=1e-5)
    assert np.abs(both - alone).max() > 0.1
    curves = [one.curve for one in found]
    assert curves[0] is not None
    assert curves[1] is not None
    assert curves[0].errors == pytest.approx(curves[1].errors)
    assert "A second head" not in found[1].how
    sizes = [one.sizes for one in found]
    assert sizes[0] == pytest.approx(sizes[1])  # of the model, whatever words say


def test_without_training_words_judge_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features say nothing here, so that wrong labels are found by the words or not at all."""
    rows, labels = texts()
    wrong = [3, 120, 411]
    labels[wrong] = 1 - labels[wrong]
    data = Data("made up", rows, None, labels, ["a", "b"], np.arange(N))
    noise = np.random.default_rng(0).normal(0, 1, (N, 16)).astype(np.float32)

    def useless(*args: Any, **more: Any) -> Embedded:
        return replace(embed(*args, **more), features=noise)

    monkeypatch.setattr(inspecting, "embed", useless)
    found = look(tiny.bert(), tiny.tokenizer(), data)
    assert "A second head" in found.how
    assert set(wrong) <= set(found.issues["row"][:10])
    monkeypatch.setattr(inspecting, "by_words", lambda *args: None)
    alone = look(tiny.bert(), tiny.tokenizer(), data)
    assert "A second head" not in alone.how
    assert not set(wrong) & set(alone.issues["row"][:10])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokens_are_those_that_the_model_was_given(side: str) -> None:
    rows, words = [text[: 5 + 7 * (i % 4)] for i, text in enumerate(texts()[0])], tiny.tokenizer()
    words.padding_side = side
    found = embed(tiny.bert(), words, rows, max_length=9).ids
    assert found is not None
    assert len(found) == N
    for ids, text in zip(found, rows, strict=True):
        assert ids.tolist() == words(text, truncation=True, max_length=9)["input_ids"]
    assert [one.tolist() for one in found[-2:]] == [found[N - 2].tolist(), found[-1].tolist()]
    with pytest.raises(IndexError):
        found[N]


def test_the_curve_counts_rows_without_features() -> None:
    dice = np.random.default_rng(4)
    n, easy = 2_000, 3_000
    true = dice.integers(0, 2, n)
    features = (3.0 * np.eye(2, 8)[true] + dice.standard_normal((n, 8))).astype(np.float32)
    wrong = dice.random(n) < 0.2
    labels = np.r_[np.where(wrong, 1 - true, true), np.zeros(easy, np.int64)]
    features = np.r_[features, np.zeros((easy, 8), np.float32)]
    among = np.arange(n)
    heads = Heads(features, labels, 2, 0, among)
    p = heads.out_of_fold(folds_of(labels, np.arange(n + easy), 5, 0))
    assert (p[n:] == 0.0).all()
    p[n:] = [0.999, 0.001]
    curve = learning_curve(heads, labels, p.astype(np.float64))
    missed = (p.argmax(axis=1) != labels).mean()
    assert curve.now == pytest.approx(missed)
    assert curve.sizes[-1] == 0.8 * (n + easy)
    assert curve.errors[-1] == pytest.approx(missed)
