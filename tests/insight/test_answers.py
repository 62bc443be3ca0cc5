"""A language model's rows: which have no target, are cut or have no end, and what the loss is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import finesieve
from finesieve.errors import ConfigError, DataError
from finesieve.insight.answers import look_at, token_rows
from tests import tiny

END, LIMIT = 3, 12


def tokenized(n: int = 40) -> dict[str, list[Any]]:
    """Row 4 has no target, rows 6 and 7 are longer than the limit, row 9 has no end."""
    dice = np.random.default_rng(0)
    ids = [[*dice.integers(4, 60, dice.integers(4, LIMIT - 1)).tolist(), END] for _ in range(n)]
    for i in (6, 7):
        ids[i] = [*dice.integers(4, 60, LIMIT + i).tolist(), END]
    ids[9] = [4, 5, 6, 7]
    labels = [[-100, -100, *row[2:]] for row in ids]
    labels[4] = [-100] * len(ids[4])
    return {"input_ids": ids, "labels": labels}


def looked(data: Any, **more: Any) -> Any:
    return finesieve.inspect(tiny.causal(dropout=0.0), data, tokenizer=tiny.tokenizer(), **more)


def test_rows_in_trouble_are_named_and_told() -> None:
    found = looked(tokenized(), max_length=LIMIT)
    assert found.answers["row"] == [4, 6, 7, 9]
    assert found.answers["what"] == ["no target", "cut", "cut", "no end"]
    said = " ".join(found.sentences())
    assert "1 of 40 rows have no target token" in said
    assert "2 of 40 rows are cut at 12 tokens" in said
    assert "1 of 40 rows end without an end-of-sequence token" in said
    frame = found.to_pandas()
    assert frame["targets"][4] == 0
    assert frame["loss"][4] == 0.0
    assert frame["tokens"].max() == LIMIT
    assert found.hard["loss"] == sorted(found.hard["loss"], reverse=True)
    assert not set(found.hard["row"]) & {4, 6, 7, 9}
    page = found.to_html()
    assert "How much is enough" not in page  # nothing was fitted
    assert '<section id="answers">' in page
    assert "w" in found.data.texts[0]  # what was decoded


def test_losses_are_the_means_over_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finesieve.insight.answers._ROWS", 4)  # several batches
    model, data = tiny.causal(dropout=0.0).eval(), tokenized()
    rows = token_rows(data, None, 64)
    found = look_at(model, rows, 64)
    for i in (0, 1, 2):
        ids, labels = torch.tensor([data["input_ids"][i]]), torch.tensor([data["labels"][i]])
        logits = model(input_ids=ids).logits[0, :-1]
        expected = F.cross_entropy(logits, labels[0, 1:], ignore_index=-100)
        assert found.losses[i] == pytest.approx(expected.item(), abs=1e-4)
        assert found.targets[i] == int((labels[0, 1:] != -100).sum())
    assert not model.training


def test_ends_that_are_masked_everywhere_are_one_sentence() -> None:
    data = tokenized()
    data["labels"] = [[-100 if y == END else y for y in row] for row in data["labels"]]
    found = looked(data, max_length=LIMIT)
    assert "No row's targets hold an end-of-sequence token" in " ".join(found.sentences())
    assert "no end" not in found.answers["what"]


def test_texts_prompts_and_chats_are_read_as_trl_trains_on_them() -> None:
    words = tiny.tokenizer()
    plain = token_rows({"text": ["w1 w2", "w3"]}, words, 64)
    assert [row.tolist() for row in plain.ids] == [[5, 6, END], [7, END]]
    assert [row.tolist() for row in plain.labels] == [[5, 6, END], [7, END]]
    pairs = token_rows([{"prompt": "w1 w2", "completion": " w3"}], words, 64)
    assert pairs.ids[0].tolist() == [5, 6, 7, END]
    assert pairs.labels[0].tolist() == [-100, -100, 7, END]
    assert (pairs.texts[0], pairs.answers) == ("w1 w2", ["w3"])
    masked = token_rows({"input_ids": [[5, 6, 7]], "completion_mask": [[0, 1, 1]]}, words, 64)
    assert masked.labels[0].tolist() == [-100, 6, 7]
    words.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] + ' ' }}{% endif %}"
        "{% endfor %}"
    )
    chat = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]
    marked = token_rows([{"messages": chat}], words, 64)
    assert marked.ids[0].tolist() == [5, 6, 7]
    assert marked.labels[0].tolist() == [-100, -100, 7]


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match=r"input_ids, messages, prompt and completion.*'words'"):
        looked({"words": ["w1"]})
    with pytest.raises(DataError, match="give them as `messages`"):
        looked([{"prompt": [{"role": "user", "content": "w1"}], "completion": "w2"}])
    with pytest.raises(ConfigError, match="max_length is 65, but the model has 64 positions"):
        looked(tokenized(), max_length=65)
    with pytest.raises(DataError, match="row 1 has"):
        looked({"input_ids": [[5], [5, 6]], "labels": [[5], [5]]})
