"""`--task token-labels`: a tag for each word; named entities, slots, parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from finesieve.cli.data.table import Table, known_names
from finesieve.cli.measures import ENTITY_F1, MACRO_F1, TOKEN_ACCURACY
from finesieve.cli.metrics import likely_cause
from finesieve.cli.spans import OUTSIDE, are_spans, tagging
from finesieve.cli.tasks.targets import Tagged, Tags, Targets
from finesieve.cli.tasks.task import Result, Task
from finesieve.scoring import heads


class TokenLabels(Task):
    """A tag a word, learned at the first piece of each; the tags mark spans."""

    name = "token-labels"
    model = "TokenClassification"
    adapters = "TOKEN_CLS"
    by_word = True
    figures = told = (ENTITY_F1, TOKEN_ACCURACY)
    size = (
        "Size is the norm of the gradient at the logits of all words of a sentence, over the "
        "number of words that a sentence has on average."
    )
    each = ("Each type of entity", "type", "evaluation entities")

    def names(
        self, train: Table, evals: Sequence[Table], given: Sequence[str] | None
    ) -> tuple[list[Any], list[str]]:
        """Returns the tags, O first, then by type; and a note if they mark no spans."""
        names = list(known_names(train, evals, "tag", given))
        if given is None and all(isinstance(name, str) for name in names):
            names.sort(key=lambda x: (x != OUTSIDE, str(x).partition("-")[::-1]))
        if are_spans(names):
            return names, []
        told = (
            f"{train.name}: tags like {', '.join(map(str, names[:4]))} mark no spans (O, B-PER, "
            "I-PER): shown are token accuracy and macro-F1 instead of entity F1"
        )
        if all(isinstance(name, int) for name in names):
            told += "; if these numbers have such names, give them with --label-names"
        return names, [told]

    def targets(self, train: Table, names: Sequence[Any]) -> Targets:
        """Returns the encoder that labels the first piece of each word with the word's tag."""
        return Tags(names, sum(map(len, train.words or ())) / len(train))

    def cut(self, truth: Mapping[str, Sequence[Any]], max_length: int) -> list[str]:
        """Returns for each set a note on how many of its words the model does not see, because the
        text was cut before them."""
        notes = []
        for name, sentences in truth.items():
            words = sum(len(one.places) for one in sentences)
            unseen = sum(int((one.places < 0).sum()) for one in sentences)
            if unseen:
                notes.append(
                    f"{name}: {unseen:,} of {words:,} words lie beyond --max-length "
                    f"{max_length}, or have no letters that the tokenizer knows: they are not "
                    "learned, and in evaluation they count as not found"
                )
        return notes

    def head(self, targets: Targets) -> heads.Head:
        """Returns the cross-entropy, summed over the words of a sentence and divided by how many a
        sentence has on average: so every word weighs the same, as in plain training."""
        assert isinstance(targets, Tags)
        return heads.Tokens(per=targets.per)

    def answers(self, logits: Tensor, truth: Sequence[Any], targets: Targets) -> Sequence[Any]:
        """Returns the tags of the words, int64[words] a sentence; -1 for a word without a place."""
        best = logits.argmax(-1).numpy()
        return [
            np.where(one.places >= 0, row[np.maximum(one.places, 0)], -1)
            for row, one in zip(best, truth, strict=True)
        ]

    def judge(
        self, predicted: Sequence[Any], truth: Sequence[Any], names: Sequence[Any]
    ) -> dict[str, Any]:
        """Returns entity F1 and the recall of each type, or macro-F1; and token accuracy."""
        known = [*map(str, names), OUTSIDE if OUTSIDE in names else ""]  # the last one of -1
        return tagging(
            [[known[tag] for tag in one] for one in predicted],
            [[known[tag] for tag in one.tags] for one in truth],
            names,
        )

    def right(
        self, predicted: Sequence[Any], truth: Sequence[Tagged]
    ) -> npt.NDArray[np.bool_] | None:
        """Returns for each sentence whether all its words were given the right tag, bool[n]."""
        return np.asarray(
            [bool((a == b.tags).all()) for a, b in zip(predicted, truth, strict=True)]
        )

    def has_learned_nothing(self, result: Result) -> str | None:
        """Returns the words for a model that predicts one tag for every word; None for others."""
        return "predicts one tag for every word" if result.get("only_tag") is not None else None

    def warning(self, result: Result, config: Mapping[str, Any]) -> str | None:
        """Returns a warning if one tag is predicted for every word."""
        only = result.get("only_tag")
        if only is None:
            return None
        return f"the trained model predicts the tag {only!r} for every word. {likely_cause(config)}"

    def in_short(self, result: Result) -> str:
        """Returns entity F1, or token accuracy, and loss."""
        main = ENTITY_F1 if ENTITY_F1.key in result else TOKEN_ACCURACY
        return f"{main.head} {result[main.key]:.4f}, loss {result['loss']:.4f}"

    def in_full(self, result: Result) -> str:
        """Returns all figures in a line."""
        named = {"entity_f1": "entity F1", "macro_f1": "macro-F1"}
        first = "  ".join(
            f"{head} {result[key]:.4f}" for key, head in named.items() if key in result
        )
        zero = " and entity F1 0" if _is_zero(result) else ""
        return (
            f"{first}  token accuracy {result['token_accuracy']:.4f}  loss {result['loss']:.4f}  "
            f"(n={result['n']}; always naming the tag {result['majority_tag']}: token accuracy "
            f"{result['majority']:.4f}{zero})"
        )

    def in_words(self, result: Result) -> str:
        """Returns all figures in sentences."""
        where = f"{result['n']:,} evaluation sentences ({result['words']:,} words)"
        zero = " and an entity F1 of 0" if _is_zero(result) else ""
        last = (
            f"{result['token_accuracy']:.1%} of the words have the right tag; always naming the "
            f"tag {result['majority_tag']} would have {result['majority']:.1%}{zero}."
        )
        if "entity_f1" in result:
            return (
                f"It reached an entity F1 of {result['entity_f1']:.1%} and a loss of "
                f"{result['loss']:.4f} on {where}: an entity is right if its type, its first and "
                f"its last word are. {last}"
            )
        return (
            f"It reached a macro-F1 of {result['macro_f1']:.1%}, the mean over tags, and a loss of "
            f"{result['loss']:.4f} on {where}. {last}"
        )

    def baseline(self, results: Sequence[Result]) -> str:
        """Returns the token accuracy of always naming the most frequent tag."""
        known = [e for e in results if "majority_tag" in e]
        if not known:
            return ""
        one = max(known, key=lambda e: float(e["majority"]))
        zero = " and an entity F1 of 0" if _is_zero(one) else ""
        return (
            f"Always naming the tag {one['majority_tag']} would have a token accuracy of "
            f"{one['majority']:.3f}{zero}."
        )

    def weakest(self, one: Result) -> str:
        """Returns a sentence on the type of the lowest recall."""
        _, kind, counted = self.each
        return (
            f"The weakest {kind} is {one['name']}: {one['recall']:.0%} of its {one['n']} {counted} "
            "are found."
        )


class PlainTags(TokenLabels):
    """A tag a word; the tags mark no spans. Read, learned and judged as `TokenLabels`."""

    figures = told = (TOKEN_ACCURACY, MACRO_F1)
    each = ("Each tag", "tag", "evaluation words")


def _is_zero(result: Result) -> bool:
    """Returns whether naming always the most frequent tag finds no entity."""
    return "entity_f1" in result and result["majority_tag"] == OUTSIDE
