"""The predictors against naive references; features from tokens and from text."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

import finesieve as fs
from finesieve import checks, heads
from finesieve.gates import features
from finesieve.gates.predictor import hashed
from finesieve.stages.window import Window, auc


def naive_slots(seen: fs.Features, bits: int) -> list[list[int]]:
    """Slots in plain Python integers, one example at a time, without padding."""
    golden, mix, full = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, (1 << 64) - 1

    def slot(key: int, label: int) -> int:
        key ^= ((label + 1) * mix) & full
        key ^= key >> 29
        return ((key * mix) & full) >> (64 - bits)

    rows = []
    for row, label in zip(seen.tokens.tolist(), seen.cross.tolist(), strict=True):
        row_slots = [slot((t * golden) & full, label) for t in row if t >= 0]
        for a, b in itertools.pairwise(row):
            if a >= 0 and b >= 0:
                a, b = (a * golden) & full, (b * golden) & full
                row_slots.append(slot(((a >> 7) + b) & full, label))
        rows.append(row_slots)
    return rows


def test_hashing_against_plain_integers() -> None:
    for offer in checks.sample_offers(3):
        fast = hashed(offer.features, 12, bigrams=True)
        for row, expected in zip(fast.tolist(), naive_slots(offer.features, 12), strict=True):
            assert sorted(s for s in row if s != 1 << 12) == sorted(expected)


def test_regression_against_a_dictionary() -> None:
    """The vectorised model does what one would write down with a dict per weight."""
    fast = fs.SizeRegression(bits=12, rate=0.3)
    weight: dict[int, float] = defaultdict(float)
    square: dict[int, float] = defaultdict(float)
    bias, seen, recall, recall_square = 0.0, 0, 0.0, 0.0
    memory: dict[int, float] = {}
    power, power_square, usual = 0.0, 0.0, 0.0

    def forward(ids: list[int], rows: list[list[int]], logs: list[float]) -> list[float]:
        out = []
        for key, row, log in zip(ids, rows, logs, strict=True):
            scale = 1 / math.sqrt(max(1, len(row)))
            known = recall * memory.get(key, 0.0) + power * (log - usual)
            out.append(math.exp(bias + scale * sum(weight[s] for s in row) + known))
        return out

    for offer in [*checks.sample_offers(1, count=8), *checks.sample_offers(1, count=8)]:
        rows, ids = naive_slots(offer.features, 12), offer.ids.tolist()
        logs = [math.log(max(1.0, t)) for t in offer.features.targets.tolist()]
        assert fast.predict(offer) == pytest.approx(forward(ids, rows, logs), rel=5e-4)
        fast.learn(offer)
        seen += offer.n
        keep = max(0.0, 1 - offer.n / min(seen, 4096))
        bias = math.log(keep * math.exp(bias) + (1 - keep) * float(offer.size.mean()))
        steps: dict[int, list[float]] = defaultdict(list)
        usual = keep * usual + (1 - keep) * sum(logs) / len(logs)
        pulls, stretches = [], []
        foreseen = forward(ids, rows, logs)
        for key, row, log, p, s in zip(ids, rows, logs, foreseen, offer.size, strict=True):
            error = (p - float(s)) * math.exp(-bias)
            pulls.append(error * memory.get(key, 0.0))
            stretches.append(error * (log - usual))
            for slot in row:
                steps[slot].append(error / math.sqrt(len(row)))
        for slot, many in steps.items():
            square[slot] += sum(g * g for g in many)
            weight[slot] -= sum(0.3 * g / math.sqrt(square[slot] + 1e-6) for g in many)
        recall_square += sum(g * g for g in pulls)
        recall -= 0.3 * sum(pulls) / math.sqrt(recall_square + 1e-6)
        power_square += sum(g * g for g in stretches)
        power -= 0.3 * sum(stretches) / math.sqrt(power_square + 1e-6)
        for key, s in zip(ids, offer.size.tolist(), strict=True):
            memory[key] = min(4.0, max(-4.0, math.log(max(s, 1e-6)) - bias))
    assert recall > 0.1  # the second time round it remembers


def test_the_number_of_targets_tells_the_size_where_words_do_not() -> None:
    """Sizes that go with the square root of it, words at random: the power is found."""
    dice = np.random.default_rng(0)
    model = fs.SizeRegression(bits=12)
    for at in range(40):
        targets = dice.integers(1, 60, 64).astype(np.float32)
        tokens = dice.integers(0, 500, (64, 12))
        offer = fs.Offer(
            np.arange(at * 64, (at + 1) * 64),
            size=np.sqrt(targets),
            features=fs.Features(tokens, np.zeros(64, np.int64), targets),
        )
        foreseen = model.predict(offer)
        model.learn(offer)
    assert auc(foreseen, offer.size > offer.size.mean(), np.ones(64)) > 0.95
    blind = model.predict(replace(offer, features=replace(offer.features, targets=None)))
    assert auc(blind, offer.size > offer.size.mean(), np.ones(64)) < 0.8


def test_token_features_count_targets() -> None:
    batch = {
        "input_ids": torch.ones(2, 3, dtype=torch.long),
        "labels": torch.tensor([[1, -100, 2, -100], [-100, -100, -100, 3]]),
    }
    found = features.token_features(labels=None, targets="labels")(batch)
    assert found.targets.tolist() == [2.0, 1.0]
    assert found.take(np.array([1])).targets.tolist() == [1.0]
    assert features.token_features(labels=None)(batch).targets is None
    alone = features.target_features()(batch)
    assert alone.targets.tolist() == [2.0, 1.0]
    assert alone.tokens.tolist() == [[0], [0]]
    for function in (
        features.token_features(labels=None, targets="labels"),
        features.target_features(),
    ):
        with pytest.raises(fs.BatchError, match="expected targets"):
            function({**batch, "labels": torch.tensor([1, 2])})


@pytest.mark.parametrize(
    ("head", "words"),
    [(heads.Tokens(), 3), (heads.Tokens(shift=True), 1), (heads.SingleLabel(), 3)],
)
def test_what_a_head_lets_the_predictor_see(head: heads.Head, words: int) -> None:
    """Of generation only how many tokens are to be told."""
    several = isinstance(head, heads.Tokens)
    found = head.features()(
        {
            "input_ids": torch.ones(2, 3, dtype=torch.long),
            "labels": torch.ones(2, 3 if several else 1, dtype=torch.long).squeeze(1),
        }
    )
    assert found.tokens.shape == (2, words)
    assert (found.targets is not None) == several


@pytest.mark.parametrize(
    ("head", "labels", "crossed"),
    [
        (heads.SingleLabel(), torch.tensor([1, 0]), True),
        (heads.MultiLabel(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), True),
        (heads.Regression(), torch.tensor([0.5, 2.0]), True),
        (heads.Spans(), torch.tensor([1, 2]), False),
    ],
)
def test_words_are_seen_and_crossed_with_what_is_to_be_told(
    head: heads.Head, labels: torch.Tensor, crossed: bool
) -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        **dict.fromkeys(head.targets, labels),
    }
    found = head.features()(batch)
    assert found.tokens.tolist() == [[5, 6, 7], [8, 9, -1]]
    assert len(set(found.cross.tolist())) == 1 + crossed
    assert found.targets is None


def test_of_preference_pairs_both_texts_are_seen() -> None:
    from finesieve.integrations.transformers.trl import pair_features

    found = pair_features()(
        {
            "input_ids": torch.tensor([[[5, 6], [7, 8]], [[9, 4], [3, 0]]]),
            "attention_mask": torch.tensor([[[1, 1], [1, 1]], [[1, 1], [1, 0]]]),
        }
    )
    assert found.tokens.tolist() == [[5, 6, 7, 8], [9, 4, 3, -1]]


def test_naive_bayes_against_scikit_learn() -> None:
    from sklearn.naive_bayes import BernoulliNB

    ours, theirs = fs.NaiveBayes(vocabulary=600), BernoulliNB()
    for i, offer in enumerate(checks.sample_offers(2)):
        dense = np.zeros((offer.n, 600))
        for row, tokens in enumerate(offer.features.tokens):
            dense[row, tokens[tokens >= 0]] = 1
        if i:
            expected = theirs.predict_proba(dense)[:, 1]
            assert ours.predict(offer) == pytest.approx(expected, abs=1e-5)
        ours.learn(offer)
        theirs.partial_fit(dense, offer.keep, classes=[False, True])


@pytest.mark.parametrize("bits", [10, 20])
def test_regression_learns_and_its_memory_is_bounded(bits: int) -> None:
    model = fs.SizeRegression(bits)
    before = model.bytes
    window = Window(1000)
    for offer in checks.sample_offers(0, count=60):
        predicted = model.predict(offer)
        window.add(replace(offer, predicted=predicted))
        model.learn(offer)
    assert window.auc() > 0.8
    assert 0.8 < window.calibration() < 1.25
    assert model.bytes == before == 12 * (1 << bits) + 8


def test_it_remembers_what_an_earlier_pass_has_shown() -> None:
    """Sizes that follow from nothing but the example itself: only memory can foresee them."""
    dice = np.random.default_rng(0)
    size = dice.lognormal(-1, 1, 2000).astype(np.float32)
    model = fs.SizeRegression(12)
    quality = []
    for _ in range(3):
        window = Window(2000)
        for start in range(0, 2000, 100):
            ids = np.arange(start, start + 100)
            tokens = dice.integers(0, 50, (100, 6))
            offer = fs.Offer(
                ids,
                features=fs.Features(tokens, np.zeros(100, np.int64)),
                loss=size[ids],
                size=size[ids],
            )
            window.add(replace(offer, predicted=model.predict(offer)))
            model.learn(offer)
        quality.append(window.auc())
    assert quality[0] < 0.6
    assert min(quality[1:]) > 0.9


def test_the_same_features_of_other_examples_are_other_examples() -> None:
    """What was looked up for one offer is taken for no other, though features are shared."""
    features = fs.Features(np.full((2, 3), 7), np.zeros(2, np.int64))
    size = np.asarray([0.1, 10.0], np.float32)
    known = fs.Offer(np.arange(2), features=features, loss=size, size=size)
    model = fs.SizeRegression(12)
    for _ in range(20):
        model.predict(known)
        model.learn(known)
    easy, hard = model.predict(known).tolist()
    assert easy < 0.5 * hard
    new = model.predict(replace(known, ids=np.arange(2, 4)))
    assert new[0] == new[1]
    assert model.predict(known).tolist() == [easy, hard]


def test_crossing_with_the_label_tells_agreement_from_disagreement() -> None:
    """Token 7 is hard with label 1 and easy with label 0: only crossed features can tell."""
    model = fs.SizeRegression(12)
    for _ in range(30):
        labels = np.tile([0, 1], 32)
        offer = fs.Offer(
            np.arange(64),
            features=fs.Features(np.full((64, 1), 7), labels),
            size=np.where(labels == 1, 1.0, 0.1).astype(np.float32),
        )
        model.learn(offer)
    predicted = model.predict(offer)
    assert predicted[1] > 4 * predicted[0]


def test_token_features_stop_at_the_mask() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 0], [7, 8, 9]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "labels": torch.tensor([1, 0]),
    }
    features = fs.token_features()(batch)
    assert features.tokens.tolist() == [[5, 6, -1], [7, 8, 9]]
    assert features.cross.tolist() == [1, 0]
    assert batch["input_ids"][0, 2] == 0  # not written into
    with pytest.raises(fs.BatchError, match="'tokens'"):
        fs.token_features(tokens="tokens")(batch)


def test_left_padding_does_not_hide_the_tokens() -> None:
    batch = {
        "input_ids": torch.tensor([[0, 0, 0, 5, 6], [1, 2, 3, 4, 5]]),
        "attention_mask": torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]),
    }
    features = fs.token_features(labels=None, max_tokens=3)(batch)
    assert features.tokens.tolist() == [[5, 6, -1], [1, 2, 3]]


def test_text_features_need_no_tokenizer() -> None:
    batch = {"text": ["Good, good film", "bad"], "labels": torch.tensor([1, 0])}
    tokens = fs.text_features()(batch).tokens
    assert (tokens[0] >= 0).sum() == 4
    assert tokens[0][0] == tokens[0][2]  # lower-cased
    assert (tokens[1] >= 0).tolist() == [True, False, False, False]


def test_features_of_other_labels() -> None:
    get = fs.token_features(mask=None)
    real = get({"input_ids": torch.ones(2, 3), "labels": torch.tensor([0.31, 4.0])})
    assert real.cross.tolist() == [3, 40]
    multi = get({"input_ids": torch.ones(3, 4), "labels": torch.tensor([[1, 0], [0, 1], [1, 0]])})
    assert multi.cross[0] == multi.cross[2] != multi.cross[1]
    unlabelled = fs.token_features(labels=None, mask=None)({"input_ids": torch.ones(2, 3)})
    assert unlabelled.cross.tolist() == [0, 0]


def test_a_label_for_every_token_is_crossed_with_nothing() -> None:
    ids = torch.arange(1, 13).view(2, 6)
    batch = {"input_ids": ids, "labels": ids.masked_fill(ids < 3, -100)}
    assert fs.token_features(mask=None)(batch).cross.tolist() == [0, 0]
    several = {"input_ids": ids, "labels": torch.tensor([[0.1, 0.9], [0.8, 0.9]])}
    one, other = fs.token_features(mask=None)(several).cross.tolist()
    assert one != other  # real numbers are told apart before they are cut to whole ones


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e7])
def test_sizes_of_any_scale_are_foreseen(scale: float) -> None:
    """Of a regression on prices, say: what counts is how they differ among themselves."""
    model, dice = fs.SizeRegression(12), np.random.default_rng(0)
    for _ in range(150):
        kind = dice.integers(0, 2, 32)
        tokens = np.stack([kind + 5, np.full(32, 9)], axis=1)
        features = fs.Features(tokens, np.zeros(32, np.int64))
        offer = fs.Offer(np.arange(32), 1, features=features, size=(1 + 3 * kind) * scale)
        predicted = model.predict(offer)
        model.learn(offer)
    assert predicted / scale == pytest.approx(1 + 3 * kind, rel=0.1)


def test_features_of_batches_without_names_are_found_by_their_form() -> None:
    """The first whole numbers [n, length] are tokens, the last element labels."""
    dice = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 99, (4, 6), generator=dice)
    image, labels = torch.rand(4, 3, 5, 5, generator=dice), torch.tensor([1, 0, 2, 1])
    find = fs.token_features()
    named = find({"input_ids": ids, "labels": labels})
    for batch in (
        (ids, labels),
        [image, ids, labels],
        (torch.arange(4), ids, ids + 1, labels),
        (ids, labels.tolist()),
    ):
        found = find(batch)
        assert found.tokens.tolist() == named.tokens.tolist() == ids.tolist()
        assert found.cross.tolist() == named.cross.tolist()
    # What cannot be found: the label alone, or nothing.
    alone = find((image, labels))
    assert alone.tokens.tolist() == [[0]] * 4
    assert alone.cross.tolist() == [1, 0, 2, 1]
    assert find((image, labels[:, None])).cross.tolist() == [1, 0, 2, 1]
    for batch in ((ids,), ids, (ids, ["a", "b", "c", "d"]), (ids, image)):
        assert find(batch).tokens.tolist() == ids.tolist()
        assert find(batch).cross.tolist() == [0] * 4
    assert find(image).tokens.shape == (4, 1)
    # Of other tasks.
    targets = ids.masked_fill(ids < 50, -100)
    count = (targets != -100).sum(dim=1).tolist()
    assert features.target_features()((ids, targets)).targets.tolist() == count
    tokens = features.token_features(labels=None, targets="labels")((ids, targets))
    assert (tokens.targets.tolist(), tokens.tokens.tolist()) == (count, ids.tolist())
    choices = torch.randint(1, 99, (4, 3, 6), generator=dice)
    right = features.choice_features()((choices, labels)).tokens.tolist()
    assert right == choices[torch.arange(4), labels].tolist()
    with pytest.raises(fs.BatchError, match="last element"):
        features.target_features()((ids, ["a", "b", "c", "d"]))
    with pytest.raises(fs.BatchError, match="no 'input_ids'"):
        features.choice_features()((ids, labels))


@pytest.mark.parametrize("bigrams", [True, False])
def test_what_is_hashed_ahead_is_what_would_be_hashed_one_by_one(bigrams: bool) -> None:
    """Batches of several widths, one of them learned without having been looked ahead to."""
    dice = np.random.default_rng(0)
    offers = []
    for width in (5, 1, 9, 9, 4):
        tokens = dice.integers(0, 500, (8, width))
        tokens[np.arange(width) >= dice.integers(1, width + 1, 8)[:, None]] = -1
        seen = fs.Features(tokens, dice.integers(0, 3, 8))
        size = dice.lognormal(0, 1, 8).astype(np.float32)
        offers.append(fs.Offer(np.arange(8), features=seen, loss=size, size=size))
    ahead, alone = (fs.SizeRegression(bits=12, bigrams=bigrams) for _ in range(2))
    ahead.look_ahead(offers[:-1])
    for offer in offers:
        assert ahead.predict(offer).tolist() == alone.predict(offer).tolist()
        ahead.learn(offer)
        alone.learn(offer)
    assert all(
        map(
            torch.equal,
            *([p.state_dict()[k] for k in ("weight", "square", "memory")] for p in (ahead, alone)),
        )
    )
