"""Rows that training passed over are judged by their words; the most doubtful are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from finesieve.insight.curves import learning_curve
from finesieve.insight.data import Data
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.inspecting import look
from finesieve.insight.labels import judge
from finesieve.insight.passed_over import DOUBTED, passed_over
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


def test_the_doubtful_ones_are_left_to_the_model() -> None:
    rows, labels = texts()
    wrong = [310, 400, 499]
    labels[wrong] = 1 - labels[wrong]
    found = passed_over(visited(rows), labels, np.arange(N), 2, 0)
    assert found is not None
    assert len(found.places) == N - MET - DOUBTED * N
    assert found.places.min() >= MET
    assert not np.isin(wrong, found.places).any()
    assert (found.probabilities.argmax(axis=1) == labels[found.places]).mean() > 0.97
    assert found.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_no_copy_tells_a_rows_label() -> None:
    """Words say nothing here, so only a head that has seen a copy could know."""
    dice, near = np.random.default_rng(3), np.arange(N)
    rows, labels = texts()[0], dice.integers(0, 2, N)
    rows = [rows[2 * (i // 2)] for i in range(N)]  # all of one class, by their words
    for i in range(MET, N):
        rows[i], near[i] = rows[i - MET], i - MET
        labels[i] = labels[i - MET]
    visits = visited(rows)
    alone = passed_over(visits, labels, near, 2, 0)
    told = passed_over(visits, labels, np.arange(N), 2, 0)
    assert alone is not None
    assert told is not None
    hits = [(x.probabilities.argmax(axis=1) == labels[x.places]).mean() for x in (alone, told)]
    assert hits[1] > hits[0] + 0.05


def test_few_rows_and_a_thorough_look_are_left_to_the_model() -> None:
    rows, labels = texts()
    assert passed_over(visited(rows, thorough=True), labels, np.arange(N), 2, 0) is None
    visits = visited(rows)
    visits.passed[: N - int(DOUBTED * N)] = False
    assert passed_over(visits, labels, np.arange(N), 2, 0) is None
    labels[:MET] = 0  # a class that only rows have which were passed over
    assert passed_over(visited(rows), labels, np.arange(N), 2, 0) is None


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
        assert ("judged by their words" in found.how) != thorough
        assert found.curve is not None
        assert found.curve.sizes[-1] == pytest.approx(0.8 * N, abs=1)
        assert found.probabilities is not None
        assert found.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        assert found.to_html()
    assert runs == [int(0.1 * N) + int(DOUBTED * N), int(0.2 * N) + N - MET]


def test_easy_rows_give_no_anchors_and_the_curve_counts_them() -> None:
    """Rows that are easy and right would make the others' mistakes look rarer."""
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
    apart, together = judge(p, labels, 0, among), judge(p, labels, 0)
    assert apart.wrong.low <= wrong.sum() <= apart.wrong.high
    assert abs(apart.wrong.value - wrong.sum()) < 0.5 * abs(together.wrong.value - wrong.sum())
    curve = learning_curve(heads, labels, p.astype(np.float64))
    missed = (p.argmax(axis=1) != labels).mean()
    assert curve.now == pytest.approx(missed)
    assert curve.sizes[-1] == 0.8 * (n + easy)
    assert curve.errors[-1] == pytest.approx(missed)
