"""Batches of multiple choice, taken apart and put together again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import finesieve as fs


@pytest.mark.parametrize("left", [False, True])
def test_multiple_choice_is_padded_along_its_length(left: bool) -> None:
    """Columns [n, choices, length] of batches of different lengths, taken apart and mixed."""
    dice = np.random.default_rng(0)
    batches, texts = [], {}
    for at in range(0, 96, 8):
        lengths = dice.integers(2, 14, (8, 3))
        width = int(lengths.max())
        ids, mask = torch.full((8, 3, width), 9), torch.zeros(8, 3, width, dtype=torch.long)
        for i, c in np.ndindex(8, 3):
            text = torch.from_numpy(dice.integers(10, 99, int(lengths[i, c])))
            where = slice(width - len(text), width) if left else slice(len(text))
            ids[i, c, where], mask[i, c, where] = text, 1
            texts[at + i, c] = text.tolist()
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": torch.arange(8) % 3})
    sieve = fs.Sieve(method=fs.methods.build("random", share=0.5), pool=32, group=2)
    seen = 0
    for batch in sieve(batches):
        real = batch["attention_mask"] == 1
        assert real.any(dim=1)[:, 0 if left else -1].any()  # no more padding than needed
        assert (batch["input_ids"][~real] == 9).all()
        for i, c in np.ndindex(len(real), 3):
            found = batch["input_ids"][i, c][real[i, c]].tolist()
            assert found == texts[int(batch["sieve_ids"][i]), c]
            seen += 1
    assert seen > 60
