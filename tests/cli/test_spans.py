"""Entity F1 by hand and against seqeval's numbers; tags that mark no spans."""

from __future__ import annotations

import random

import pytest

from finesieve.cli.spans import are_spans, spans, tagging
from finesieve.cli.tasks.registry import TASKS

TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]
CONFIG = {"lr": 1e-4, "lora": 0, "freeze": 0}


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", set()),
        ("B-A I-A O B-B", {("A", 0, 1), ("B", 3, 3)}),
        ("B-A B-A", {("A", 0, 0), ("A", 1, 1)}),
        ("I-A I-A O", {("A", 0, 1)}),  # an I- without a B- begins one
        ("B-A I-B I-B", {("A", 0, 0), ("B", 1, 2)}),  # and so does another type
        ("O B-A", {("A", 1, 1)}),
        ("B-A I-A E-A I-A S-A U-A", {("A", 0, 2), ("A", 3, 3), ("A", 4, 4), ("A", 5, 5)}),
        ("B-A L-A O", {("A", 0, 1)}),
        ("B-per-son I-per-son", {("per-son", 0, 1)}),
        ("", set()),
    ],
)
def test_the_spans_that_tags_mark(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == found


def test_by_hand() -> None:
    """Of four entities two are found as they are; of one the end is wrong, one is missed."""
    tags = [["B-A", "I-A", "O", "B-B"], ["B-A", "O", "B-A", "I-A"]]
    predicted = [["B-A", "I-A", "O", "B-B"], ["O", "O", "B-A", "O"]]
    found = tagging(predicted, tags, TAGS)
    assert found["entities"] == 4
    assert found["entity_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert found["token_accuracy"] == 6 / 8
    assert (found["majority_tag"], found["majority"]) == ("B-A", 3 / 8)
    a, b = found["classes"]
    assert (a["name"], a["n"], a["predicted"]) == ("A", 3, 2)
    assert (a["recall"], a["precision"]) == (1 / 3, 1 / 2)
    assert (b["name"], b["n"], b["recall"]) == ("B", 1, 1.0)


# What seqeval 1.2.2 says (`f1_score`, and the recall in `classification_report`) of the sentences
# that `sentences` makes with these seeds.
SEQEVAL = {
    0: (0.4554455445544554, 0.4166666666666667, 0.4642857142857143),
    1: (0.6493506493506495, 0.6666666666666666, 0.625),
    2: (0.54, 0.68, 0.38461538461538464),
}


def sentences(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    dice = random.Random(seed)
    tags = [[dice.choice(TAGS) for _ in range(dice.randint(1, 9))] for _ in range(12)]
    predicted = [[y if dice.random() < 0.6 else dice.choice(TAGS) for y in s] for s in tags]
    return predicted, tags


@pytest.mark.parametrize("seed", SEQEVAL)
def test_it_is_seqevals_f1(seed: int) -> None:
    found = tagging(*sentences(seed), TAGS)
    figures = (found["entity_f1"], *(one["recall"] for one in found["classes"]))
    assert figures == pytest.approx(SEQEVAL[seed])


def test_tags_that_mark_no_spans_have_macro_f1() -> None:
    assert are_spans(TAGS)
    assert not are_spans(["O"])
    assert not are_spans(["NOUN", "VERB"])
    assert not are_spans([0, 1, 2])
    found = tagging([["N", "V", "N"]], [["N", "V", "V"]], ["N", "V", "X"])
    assert "entity_f1" not in found
    assert found["macro_f1"] == pytest.approx(2 / 3)  # of N: 2 / (2 + 1), of V: 2 / (1 + 2)
    assert [one["recall"] for one in found["classes"]] == [1.0, 0.5, None]


def test_a_word_that_was_not_seen_is_not_found() -> None:
    found = tagging([["N", ""]], [["N", "V"]], ["N", "V"])
    assert (found["token_accuracy"], found["classes"][1]["recall"]) == (0.5, 0.0)
    assert found["only_tag"] == "N"  # it is no tag either


def test_one_tag_for_every_word_is_warned_of() -> None:
    task = TASKS["token-labels"]
    found = tagging([["O", "O"]], [["O", "B-A"]], TAGS)
    assert found["only_tag"] == "O"
    assert "predicts the tag 'O' for every word. training was" in str(task.warning(found, CONFIG))
    assert task.has_learned_nothing(found) == "predicts one tag for every word"
    for predicted, tags in (([["O", "O"]], [["O", "O"]]), ([["O", "B-A"]], [["O", "B-A"]])):
        fine = tagging(predicted, tags, TAGS)
        assert task.warning(fine, CONFIG) is None
        assert task.has_learned_nothing(fine) is None
