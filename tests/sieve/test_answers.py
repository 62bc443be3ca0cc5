"""Rows of tokens: how long, how many targets, whether they end; from runs of language models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import finesieve
from finesieve import heads
from finesieve.sieve.answers import Answers, cut_rows, ended, ends_of
from tests import tiny

END, LIMIT = 3, 12


def rows(n: int = 64) -> list[dict[str, Any]]:
    """Texts of words with an end, but row 5 without a target and rows 8 and 9 cut at the limit."""
    dice = np.random.default_rng(0)
    out = []
    for i in range(n):
        ids = [*dice.integers(4, 60, dice.integers(4, LIMIT - 2)).tolist(), END]
        if i in (8, 9):
            ids = dice.integers(4, 60, LIMIT).tolist()
        labels = [-100, -100, *ids[2:]]
        if i == 5:
            labels = [-100] * len(ids)
        out.append({"input_ids": ids, "labels": labels, "row": i})
    return out


def batches(examples: list[dict[str, Any]], size: int = 8) -> list[dict[str, torch.Tensor]]:
    out = []
    for i in range(0, len(examples), size):
        some = examples[i : i + size]
        width = max(len(r["input_ids"]) for r in some)
        pad = [width - len(r["input_ids"]) for r in some]
        out.append(
            {
                "input_ids": torch.tensor(
                    [r["input_ids"] + [0] * p for r, p in zip(some, pad, strict=True)]
                ),
                "attention_mask": torch.tensor(
                    [[1] * len(r["input_ids"]) + [0] * p for r, p in zip(some, pad, strict=True)]
                ),
                "labels": torch.tensor(
                    [r["labels"] + [-100] * p for r, p in zip(some, pad, strict=True)]
                ),
                "row": torch.tensor([r["row"] for r in some]),
            }
        )
    return out


@pytest.mark.parametrize("method", ["full", "finesieve"])
def test_a_language_models_run_tells_tokens_targets_and_cut_rows(method: str) -> None:
    model = tiny.causal(dropout=0.0)
    recipe = finesieve.Full() if method == "full" else finesieve.Manual({2: 0.3}, cost_ratio=0.2)
    options = finesieve.SieveOptions(id_key="row", pool=16)
    sieve = finesieve.Sieve(model, recipe, total=128, options=options)
    optimizer, head, examples = (
        torch.optim.SGD(model.parameters(), 0.1),
        heads.Tokens(shift=True),
        rows(),
    )
    for _ in range(2):
        for batch in sieve(batches(examples)):
            given = {k: batch[k] for k in ("input_ids", "attention_mask")}
            sieve.loss(head.losses(model(**given), batch), batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    table = sieve.insights
    assert table["id"].tolist() == list(range(64))
    assert table["tokens"].tolist() == [len(r["input_ids"]) for r in examples]
    assert table["targets"].tolist() == [sum(y != -100 for y in r["labels"]) for r in examples]
    assert np.flatnonzero(table["targets"] == 0).tolist() == [5]
    assert np.flatnonzero(~table["ended"]).tolist() == [5, 8, 9]
    assert np.flatnonzero(table["cut"]).tolist() == [8, 9]
    assert np.isfinite(table["first_loss"]).all()
    assert table["first_loss"][5] == 0.0
    assert table.to_pandas().shape[1] == 10


def test_counts_are_read_in_portions_and_the_oldest_are_forgotten() -> None:
    model = tiny.causal()
    sieve = finesieve.Sieve(model, finesieve.Full(), options=finesieve.SieveOptions(id_key="row"))
    answers = Answers(heads.Tokens(shift=True), ends_of(model), most=200)
    for batch in batches(rows(1000)):
        answers.see(sieve._flow.codec.unpack(batch, 0))
    found = answers.columns(np.array([0, 999, 5000]))
    assert found["tokens"][0] == -1  # forgotten
    assert found["tokens"][1] == len(rows(1000)[999]["input_ids"])
    assert found["tokens"][2] == -1  # never seen
    assert found["ended"].tolist() == [False, True, False]


def test_a_classifier_has_no_such_columns() -> None:
    model = tiny.bert()
    assert Answers.of(finesieve.Sieve(model)._flow.scoring._scorer) is None
    assert "tokens" not in finesieve.Sieve(model).insights


def test_an_end_counts_among_the_last_targets_alone() -> None:
    labels = torch.tensor(
        [
            [-100, 7, 8, END],
            [7, END, 8, -100],  # a line break behind the end, as chat templates have it
            [END, 7, 8, 9],  # far from the end: of the prompt, say
            [-100, -100, -100, -100],
        ]
    )
    assert ended(labels, torch.tensor([END])).tolist() == [True, True, False, False]


def test_rows_of_the_longest_length_are_cut_unless_they_end() -> None:
    size = np.array([9, 9, 5, 9])
    assert cut_rows(size, np.array([True, False, True, False])).tolist() == [
        False,
        True,
        False,
        True,
    ]
    nowhere = np.zeros(4, dtype=bool)  # no row ends: a length that several have is a limit
    assert cut_rows(size, nowhere).tolist() == [True, True, False, True]
    assert not cut_rows(np.array([9, 5, 4, 3]), nowhere).any()
    assert cut_rows(size[:0], nowhere[:0]).tolist() == []
