"""`--task token-labels`: words with tags are read, learned, judged and saved."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.spans import tagging
from finesieve.cli.tasks.registry import TASKS
from finesieve.cli.tasks.targets import Tagged, Tags
from finesieve.cli.training.batches import Examples
from finesieve.cli.training.models import load_tokenizer
from finesieve.errors import ConfigError, DataError
from tests.conftest import BY_HAND, arguments

TASK = ["--task", "token-labels"]
FILLER = ("the", "a", "function", "returns", "of", "and", "with")
NAMES = {
    "LIB": (("torch",), ("sympy",), ("hugging", "face")),
    "PER": (("tom",), ("isaac", "newton")),
}


def row(dice: random.Random) -> dict[str, Any]:
    """A sentence with two names in it, whose tags follow from the words."""
    tokens, tags = [], []
    for kind in [None, *dice.sample([*NAMES, None, None], 3), None]:
        words = dice.choice(NAMES[kind]) if kind else dice.sample(FILLER, 2)
        tokens += words
        tags += [f"{'I' if i else 'B'}-{kind}" if kind else "O" for i in range(len(words))]
    return {"tokens": tokens, "tags": tags}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.fixture(scope="module")
def tagged(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    (folder / "model").symlink_to(files / "model")
    dice = random.Random(0)
    for name, many in (("train", 480), ("eval", 100)):
        (folder / f"{name}.jsonl").write_text(lines([row(dice) for _ in range(many)]))
    return folder


@pytest.fixture(scope="module")
def learned(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all three stages."""
    output = tmp_path_factory.mktemp("learned") / "out"
    more = ["--lr", "1e-3", "--epochs", "3", "--max-length", "24"]
    assert main(arguments(tagged, output, *TASK, *BY_HAND, *more)) == 0
    return output


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_it_learns_entities(learned: Path) -> None:
    s = summary(learned)
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    assert s["labels"] == ["O", "B-LIB", "I-LIB", "B-PER", "I-PER"]
    assert s["eval"]["entity_f1"] > 0.7
    assert s["eval"]["token_accuracy"] > s["eval"]["majority"] > 0.5
    assert s["eval"]["majority_tag"] == "O"
    assert [one["name"] for one in s["eval"]["classes"]] == ["LIB", "PER"]
    assert s["eval"]["n"] == 100
    assert not {"accuracy", "macro_f1"} & s["eval"].keys()


def test_every_word_weighs_the_same(tagged: Path) -> None:
    """A sentence of few words as little as that, as in plain training with a mean over words."""
    table = load(str(tagged / "train.jsonl"), task="token-labels")
    targets = TASKS["token-labels"].targets(table, ["O"])
    average = sum(len(words) for words in table.words) / len(table)
    assert 8 < average < 10
    batch = {"labels": torch.tensor([[0, -100, -100], [0, 0, 0]])}
    losses = TASKS["token-labels"].head(targets).losses(torch.zeros(2, 3, 2), batch)
    each = torch.tensor(2.0).log() / average
    torch.testing.assert_close(losses, each * torch.tensor([1, 3]))


def test_the_saved_model_tags_words_by_their_first_piece(learned: Path, tagged: Path) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(learned / "model")
    model = AutoModelForTokenClassification.from_pretrained(learned / "model").eval()
    rows = [json.loads(line) for line in (tagged / "eval.jsonl").read_text().splitlines()]
    predicted = []
    for one in rows:
        pieces = tokenizer(one["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            best = model(**pieces).logits[0].argmax(-1).tolist()
        first: dict[int, str] = {}
        for place, word in enumerate(pieces.word_ids()):
            if word is not None:
                first.setdefault(word, model.config.id2label[best[place]])
        predicted.append([first[i] for i in range(len(one["tokens"]))])
    found = tagging(predicted, [one["tags"] for one in rows], [*model.config.id2label.values()])
    told = summary(learned)["eval"]
    assert found["entity_f1"] == pytest.approx(told["entity_f1"], abs=0.01)
    assert found["token_accuracy"] == pytest.approx(told["token_accuracy"], abs=0.005)


def test_a_comparison_and_its_page_speak_of_entities(
    tagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    command = arguments(tagged, output, *TASK, *BY_HAND, "--limit", "320", command="compare")
    assert main(command) == 0
    shown = capsys.readouterr().out
    table = (output / "compare.md").read_text()
    assert table.startswith("| method | seeds | entity F1 | token accuracy | held-out loss |")
    page = (output / "report.html").read_text()
    for text in (shown, table, page):
        assert "Always naming the tag O would have a token accuracy of" in text
        assert "and an entity F1 of 0." in text
        assert "; entity F1 " in text
        assert ", token accuracy " in text
    for word in ("macro-F1", "class"):
        assert word not in shown
        assert word not in table
    for word in ("Each type of entity", "evaluation entities", "It reached an entity F1 of"):
        assert word in page
    assert "Each class" not in page
    assert "finesieve inspect says" not in page
    assert "/B-LIB" in page  # a sentence with its tags


def test_without_spans_it_is_token_accuracy(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts of speech, and numbers that nobody gave names."""
    (tmp_path / "model").symlink_to(files / "model")
    rows = [{"words": "the torch runs", "upos": "DET NOUN VERB"}, {"words": "a", "upos": "DET"}]
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text(lines(rows * 20))
    assert main(arguments(tmp_path, tmp_path / "out", *TASK, "--method", "full")) == 0
    told = capsys.readouterr()
    assert "mark no spans (O, B-PER, I-PER): shown are token accuracy and macro-F1" in told.err
    assert told.out.startswith("macro-F1 ")
    s = summary(tmp_path / "out")
    assert s["labels"] == ["DET", "NOUN", "VERB"]
    assert s["eval"]["majority"] == 0.5
    assert "entity_f1" not in s["eval"]
    (tmp_path / "train.jsonl").write_text(lines([{"tokens": ["a", "b"], "tags": [0, 1]}] * 20))
    table = load(str(tmp_path / "train.jsonl"), task="token-labels")
    (note,) = TASKS["token-labels"].names(table, [], None)[1]
    assert "give them with --label-names" in note


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_are_found_at_their_first_pieces(files: Path, tmp_path: Path, side: str) -> None:
    """Also where padding stands before them; those cut off have no place."""
    rows = [{"tokens": ["hugging", "xylophonists", "tom"], "tags": ["B-A", "O", "B-B"]}]
    rows += [{"tokens": ["tom"], "tags": ["B-B"]}]
    (tmp_path / "t.jsonl").write_text(lines(rows))
    table = load(str(tmp_path / "t.jsonl"), task="token-labels")
    tokenizer = load_tokenizer(str(files / "model"), by_word=True)
    tokenizer.padding_side = side
    whole = tokenizer(rows[0]["tokens"], is_split_into_words=True).word_ids()
    assert whole.count(1) > 1  # so that there is a piece that is not labelled
    names = ["O", "B-A", "B-B"]
    examples = Examples(table, Tags(names), tokenizer, 16)
    labels = examples.batch(np.array([0, 1]))["labels"]
    wanted = [-100] * len(whole)
    for word, number in enumerate((1, 0, 2)):
        wanted[whole.index(word)] = number
    assert labels[0].tolist() == wanted
    other = [-100, 2, -100]
    filled = [-100] * (len(whole) - 3)
    assert labels[1].tolist() == (other + filled if side == "right" else filled + other)
    short = examples.placed(1, len(whole))
    assert labels[1, short.places[0]] == 2
    cut = Examples(table, Tags(names), tokenizer, whole.index(2) + 1)
    assert [x.places.tolist()[-1] for x in cut.truth] == [-1, 1]
    (note,) = TASKS["token-labels"].cut({"t": cut.truth}, 4)
    assert "t: 1 of 4 words lie beyond --max-length 4" in note
    logits = torch.zeros(1, len(whole), 3)
    logits[0, :, 1] = 1.0
    (found,) = TASKS["token-labels"].answers(logits, [cut.truth[0]], Tags(names))
    assert found.tolist() == [1, 1, -1]
    judged = TASKS["token-labels"].judge([found], [cut.truth[0]], names)
    assert judged["classes"][1]["recall"] == 0.0
    assert isinstance(cut.truth[0], Tagged)


def test_a_tokenizer_that_needs_a_space_before_words(tmp_path: Path) -> None:
    """RoBERTa's and GPT-2's refuse words one by one otherwise."""
    from tokenizers import pre_tokenizers
    from transformers import GPT2TokenizerFast

    known = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = {x: i for i, x in enumerate(known)}
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    made = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    made.pad_token = made.eos_token
    made.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    found = load_tokenizer(str(tmp_path / "m"), by_word=True)(["ab", "c"], is_split_into_words=True)
    assert found.word_ids() == [0, 0, 0, 1, 1]


def test_a_slow_tokenizer_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(ConfigError, match="does not say which word a piece is of"):
        load_tokenizer(str(files / "model"), by_word=True)


GOOD = {"tokens": ["Tom", "met", "Ann"], "tags": ["B-PER", "O", "I-PER"]}


@pytest.mark.parametrize(
    ("bad", "more", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, TASK, "example 1: 2 words in 'tokens', but 1 tags"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, TASK, "example 1: 'tokens' is a list"),
        ({"tokens": ["a"], "tags": [None]}, TASK, "example 1: a label in 'tags' is empty"),
        ({"tokens": ["a"], "tags": 3}, TASK, "example 1: 'tags' is 3; --task token-labels expects"),
        ({"tokens": ["a"], "tags": None}, TASK, "1 of 2 examples have no 'tags' (rows 1, from 0)"),
        (GOOD, [], "(words with a tag each are trained on with --task token-labels)"),
        (GOOD, [*TASK, "--text-pair", "tags"], "--task token-labels takes one sentence a row"),
        (GOOD, [*TASK, "--unlabelled", "keep"], "say --unlabelled drop"),
        (GOOD, [*TASK, "--label-names", "O,B-PER"], "'tags' has 'I-PER', which is none of the 2"),
        (GOOD, [*TASK, "--label-names", "nowhere"], "no file nowhere; expected a file, or names"),
        (GOOD, [*TASK, "--text", "token"], "has no column 'token'"),
        (
            GOOD,
            ["--label-names", "O,X"],
            "--label-names is for --task multi-label and token-labels",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: dict[str, Any],
    more: list[str],
    message: str,
) -> None:
    (tmp_path / "model").symlink_to(files / "model")
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text(lines([GOOD, bad]))
    assert main(arguments(tmp_path, tmp_path / "out", *more)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_an_unknown_tag_in_the_evaluation_data_is_named(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless all tags that there may be are named."""
    (tmp_path / "model").symlink_to(files / "model")
    (tmp_path / "train.jsonl").write_text(lines([GOOD] * 20))
    (tmp_path / "eval.jsonl").write_text(lines([GOOD, {"tokens": ["Rome"], "tags": ["B-LOC"]}]))
    command = arguments(tmp_path, tmp_path / "out", *TASK, "--method", "full")
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "eval.jsonl has tags that" in told
    assert "has not: B-LOC (example 1 is the first; known: " in told
    assert "name all tags that there may be with --label-names" in told
    assert main([*command, "--label-names", "O,B-PER,I-PER,B-LOC"]) == 0
    assert summary(tmp_path / "out")["labels"] == ["O", "B-PER", "I-PER", "B-LOC"]


def test_only_one_tag_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(lines([{"tokens": ["a"], "tags": ["O"]}] * 3))
    table = load(str(tmp_path / "t.jsonl"), task="token-labels")
    with pytest.raises(DataError, match="has the tag 'O' alone"):
        TASKS["token-labels"].names(table, [], None)


def test_adapters_and_frozen_layers(tagged: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    for name, more in (("lora", ["--lora", "2", "--lr", "5e-3"]), ("frozen", ["--freeze", "2"])):
        command = arguments(tagged, tmp_path / name, *TASK, *BY_HAND, "--limit", "96", *more)
        assert main(command) == 0
        assert summary(tmp_path / name)["eval"]["token_accuracy"] > 0.3


def test_inspect_says_that_it_cannot_judge_tags(
    tagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tagged / "train.jsonl")
    assert main(["inspect", data, "--output", str(tmp_path / "o"), "--model", "none"]) == 2
    assert "are trained on with --task token-labels" in capsys.readouterr().err
    assert main(["inspect", data, "--output", str(tmp_path / "o"), "--label", "tags"]) == 2
    assert "--task token-labels" in capsys.readouterr().err
