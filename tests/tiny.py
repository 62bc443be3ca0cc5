"""Tiny tokenizers and models with random weights, for tests of hosts built on Hugging Face's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import finesieve as fs
from finesieve import methods

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
OPTIONS = {"pool": 32, "group": 2}


def tokenizer() -> Any:
    """Words w0 to w59, split at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", eos_token="[SEP]", model_max_length=64)


def causal(seed: int = 0, dropout: float = 0.1) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(WORDS), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=3,
        eos_token_id=3, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout))


def bert(classes: int = 2, seed: int = 0) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=classes))


def sentence(dice: np.random.Generator, longest: int = 14) -> str:
    """Mostly one word over and over, which is soon learned; now and then any words."""
    length = int(dice.integers(2, longest))
    if dice.random() < 0.7:
        return " ".join(["w1", "w2"] * length)[: 3 * length - 1]
    return " ".join(f"w{i}" for i in dice.integers(0, 60, length))


def closed(**settings: Any) -> fs.Method:
    """Ours, with gates that close early and by hand; the clock decides nothing."""
    return methods.build("finesieve", 0, **{
        "train": 0.3, "score": 0.6, "starts": {2: 0.15, 3: 0.4}, "cost_ratio": 0.2, **settings})


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def documented(name: str, **names: Any) -> Any:
    """The function of this name as docs/trainer.md has it; names: what stands around it there."""
    page = (Path(__file__).parent.parent / "docs" / "trainer.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```py\n(.*?)```", page, re.S) if f"def {name}(" in b)
    exec(block, names)
    return names[name]


def runs_with_one_line_more(example: str, folder: Path) -> None:
    """The example runs filtered, and makes plain training's steps while the gates are open; the
    sieve is one line of it."""
    path = Path(__file__).parent.parent / "examples" / example
    assert path.read_text(encoding="utf-8").count("hf.") == 1
    for sieve in ([], ["--sieve"]):
        done = subprocess.run(
            [sys.executable, str(path), "--limit", "96", "--output", str(folder), *sieve],
            capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("3 steps, ")
