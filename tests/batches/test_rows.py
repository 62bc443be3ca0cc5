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
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=32, group=2),
    )
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


@pytest.mark.parametrize("left", [False, True])
def test_several_texts_have_a_width_each(left: bool) -> None:
    """`a_attention_mask` speaks of `a_...`, `b_attention_mask` of `b_...`, whatever their widths;
    a word that is the same in every batch rides along."""
    dice = np.random.default_rng(0)
    batches, texts = [], {}
    for at in range(0, 96, 8):
        batch = {"label": torch.rand(8), "a_modality": "text"}
        for name, longest in (("a_", 14), ("b_", 6)):
            lengths = dice.integers(1, longest, 8)
            width = int(lengths.max())
            ids, mask = torch.full((8, width), 9), torch.zeros(8, width, dtype=torch.long)
            for i, length in enumerate(lengths):
                text = torch.from_numpy(dice.integers(10, 99, int(length)))
                where = slice(width - length, width) if left else slice(length)
                ids[i, where], mask[i, where] = text, 1
                texts[at + i, name] = text.tolist()
            batch |= {f"{name}input_ids": ids, f"{name}attention_mask": mask}
        batches.append(batch)
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=32, group=2),
    )
    seen = 0
    for batch in sieve(batches):
        assert batch["a_modality"] == "text"
        for name in ("a_", "b_"):
            real = batch[f"{name}attention_mask"] == 1
            assert real.any(dim=0)[0 if left else -1]  # no more padding than needed
            assert (batch[f"{name}input_ids"][~real] == 9).all()
            for i in range(len(real)):
                found = batch[f"{name}input_ids"][i][real[i]].tolist()
                assert found == texts[int(batch["sieve_ids"][i]), name]
                seen += 1
    assert seen > 60
    with pytest.raises(fs.BatchError, match="'a_modality' is 'image' and was 'text'"):
        list(fs.Sieve(method="full")([batches[0], {**batches[1], "a_modality": "image"}]))


def test_targets_have_a_width_of_their_own() -> None:
    """Sequence to sequence: whole-number labels that differ in width are padded with -100 and cut,
    and what the decoder is given with them; rows of a fixed width are left alone."""
    dice = np.random.default_rng(0)
    batches = []
    for at in range(0, 96, 8):
        width, wide = int(dice.integers(3, 9)), int(dice.integers(3, 9))
        labels = torch.full((8, wide), -100)
        for i, length in enumerate(dice.integers(1, wide + 1, 8)):
            labels[i, :length] = at + i
        batches.append(
            {
                "input_ids": torch.ones(8, width, dtype=torch.long),
                "attention_mask": torch.ones(8, width, dtype=torch.long),
                "labels": labels,
                "decoder_input_ids": labels.clamp(min=0),
            }
        )
    method = fs.methods.registry.build("random", share=0.5)
    seen = 0
    for batch in fs.Sieve(method=method, options=fs.SieveOptions(pool=32, group=2))(batches):
        real = batch["labels"] != -100
        assert real.any(dim=0)[-1]
        assert batch["decoder_input_ids"].shape == real.shape
        for i, number in enumerate(batch["sieve_ids"].tolist()):
            whole = batches[number // 8]["labels"][number % 8]
            assert batch["labels"][i][real[i]].tolist() == whole[whole != -100].tolist()
            seen += 1
    assert seen > 30
    kept = ("input_ids", "attention_mask")
    fixed = [{"labels": torch.full((8, 11), -100), **{k: b[k] for k in kept}} for b in batches]
    assert {
        b["labels"].shape[1]
        for b in fs.Sieve(method=method, options=fs.SieveOptions(pool=32))(fixed)
    } == {11}


@pytest.mark.parametrize("cut", [True, False])
def test_targets_as_wide_as_the_input_are_still_another_text(cut: bool) -> None:
    """Sequence to sequence with inputs and targets padded to one width, or to the same by chance in
    the first batch: no target token is lost, and targets are padded with -100."""
    dice = np.random.default_rng(0)
    batches = []
    for at in range(0, 96, 8):
        width = 9 if cut or at == 0 else int(dice.integers(5, 9))
        wide = 9 if cut or at == 0 else int(dice.integers(10, 14))
        ids, labels = torch.zeros(8, width, dtype=torch.long), torch.full((8, wide), -100)
        for i in range(8):
            ids[i, : int(dice.integers(1, 5))] = 3
            labels[i, : int(dice.integers(5, wide + 1))] = at + i + 1
            labels[i, 0] = 777
        batches.append(
            {
                "input_ids": ids,
                "attention_mask": (ids > 0).long(),
                "labels": labels,
                "decoder_input_ids": labels.clamp(min=0),
            }
        )
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=32, group=2),
    )
    seen = 0
    for batch in sieve(batches):
        assert batch["decoder_input_ids"].shape == batch["labels"].shape
        for i, number in enumerate(batch["sieve_ids"].tolist()):
            whole = batches[number // 8]["labels"][number % 8]
            found = batch["labels"][i]
            assert found[found != -100].tolist() == whole[whole != -100].tolist()
            seen += 1
    assert seen > 30


def test_labels_that_go_with_the_input_stay_with_it() -> None:
    """Copied from the input, padding and all: one value there is padding."""
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 0, 0, 0], [5, 8, 9, 0, 0], [4, 0, 0, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.clone()}
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.6),
        options=fs.SieveOptions(pool=16, group=1),
    )
    for found in sieve([batch] * 12):
        assert found["labels"].equal(found["input_ids"])
        assert found["labels"].shape[1] <= 3


def test_positions_behind_padding_are_refused() -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7], [0, 4, 5, 6, 7]])
    batch = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "start_positions": torch.tensor([3, 2]),
        "end_positions": torch.tensor([4, 3]),
    }
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5), options=fs.SieveOptions(pool=8)
    )
    with pytest.raises(fs.BatchError, match=r"end_positions, start_positions count places from"):
        list(sieve([batch] * 8))
    right = {k: v.flip(1) if v.ndim == 2 else v for k, v in batch.items()}
    method = fs.methods.registry.build("random", share=0.5)
    assert list(fs.Sieve(method=method, options=fs.SieveOptions(pool=8))([right] * 8))


def test_a_value_a_class_is_no_value_a_token() -> None:
    """Several labels, as many classes as the batch is wide by chance: none may be cut off."""
    dice = np.random.default_rng(0)
    batches = []
    for at in range(0, 64, 8):
        mask = torch.arange(16)[None] < torch.from_numpy(dice.integers(3, 9, 8))[:, None]
        labels = torch.zeros(8, 16)
        labels[torch.arange(8), 8 + torch.arange(8)] = 1.0 + at
        batches.append(
            {"input_ids": 5 * mask.long(), "attention_mask": mask.long(), "labels": labels}
        )
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=16, group=1),
    )
    seen = 0
    for batch in sieve(batches):
        assert batch["input_ids"].shape[1] <= 8
        for i, number in enumerate(batch["sieve_ids"].tolist()):
            assert batch["labels"][i].equal(batches[number // 8]["labels"][number % 8])
            seen += 1
    assert seen > 20
