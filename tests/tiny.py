"""Tiny tokenizers and models with random weights, for tests of hosts built on Hugging Face's."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=64,
    )


def causal(seed: int = 0, dropout: float = 0.1) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(WORDS),
            n_positions=64,
            n_embd=16,
            n_layer=1,
            n_head=2,
            bos_token_id=3,
            eos_token_id=3,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
    )


def bert(classes: int = 2, seed: int = 0) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            num_labels=classes,
        )
    )


def encoder_folder(folder: Path) -> Path:
    """A folder for `--model`: MiniLM's tokenizer, and a thousandth of its matrices, six layers."""
    from transformers import BertConfig, BertModel

    from finesieve.cli.training.models import load_tokenizer

    split = load_tokenizer("minilm")
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(split),
            hidden_size=32,
            num_hidden_layers=6,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=512,
            initializer_range=0.2,
            pad_token_id=split.pad_token_id,
        )
    ).save_pretrained(folder)
    split.save_pretrained(folder)
    return folder


def sentence(dice: np.random.Generator, longest: int = 14) -> str:
    """Mostly one word over and over, which is soon learned; now and then any words."""
    length = int(dice.integers(2, longest))
    if dice.random() < 0.7:
        return " ".join(["w1", "w2"] * length)[: 3 * length - 1]
    return " ".join(f"w{i}" for i in dice.integers(0, 60, length))


def closed(**settings: Any) -> fs.Method:
    """Ours, with gates that close early and by hand; the clock decides nothing."""
    return methods.registry.build(
        "finesieve",
        0,
        **{"train": 0.3, "score": 0.6, "starts": {2: 0.15, 3: 0.4}, "cost_ratio": 0.2, **settings},
    )


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def documented(name: str, **names: Any) -> Any:
    """The function of this name as a page of docs/how-to has it; names: what stands around it."""
    for path in (Path(__file__).parent.parent / "docs" / "how-to").glob("*.md"):
        for block in re.findall(r"```py\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            if f"def {name}(" in block:
                exec(block, names)
                return names[name]
    raise LookupError(f"no page of docs/how-to defines {name}")


def encoder(folder: Path) -> Path:
    """The folder, with a tiny encoder and its tokenizer in it."""
    bert().base_model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def said_by(script: Path, *arguments: str) -> list[str]:
    """The lines that a script prints. It runs in this process, so that what it imports is imported
    once for all scripts; warnings are its own affair."""
    before = sys.argv, sys.path[:]
    sys.argv, sys.path[:] = [str(script), *arguments], [str(script.parent), *sys.path]
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()) as out:
            warnings.simplefilter("ignore")
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
        sys.modules.pop("common", None)
    return out.getvalue().splitlines()


def runs_with_one_line_more(example: str, folder: Path, limit: int = 96, rel: float = 0.0) -> None:
    """The example runs filtered, and while the gates are open makes plain training's steps and ends
    at its loss: to all six digits, or `rel` where losses of one's own stand for the host's. The
    sieve is one line of it. limit: whatever gives three batches of 32 at the most (some pairs are
    too long for TRL)."""
    path = Path(__file__).parent.parent / "examples" / example
    source = path.read_text(encoding="utf-8")
    sieve_alone(source)
    model = ["--model", str(encoder(folder / "encoder"))] if '"--model"' in source else []
    common = ["--limit", str(limit), *model]
    said = [
        said_by(path, *common, "--output", str(folder / name), *sieve)
        for name, sieve in (("plain", []), ("sieved", ["--sieve"]))
    ]
    plain, sieved = (
        re.fullmatch(r"3 steps, [0-9.]+ s, train loss ([0-9.]+)", lines[-1]) for lines in said
    )
    assert plain, said[0][-1]
    assert sieved, said[1][-1]
    moves, counts = books(said[1])
    assert [m["stage"] for m in moves] == [1]
    assert 64 < counts["drawn"] == counts["yielded"] <= 96
    assert float(sieved[1]) == pytest.approx(float(plain[1]), rel=rel, abs=0.0)


def sieve_alone(source: str) -> None:
    """Nothing but `if args.sieve:` has to do with it: one call there attaches it, another may print
    what it did, and whatever else the blocks name is used there alone."""
    tree = ast.parse(source)
    blocks = [x for x in tree.body if isinstance(x, ast.If) and ast.unparse(x.test) == "args.sieve"]
    inside = [x for block in blocks for x in ast.walk(block)]
    outside = [x for part in tree.body if part not in blocks for x in ast.walk(part)]
    assert not any(block.orelse for block in blocks)
    calls = [ast.unparse(x.func) for x in inside if isinstance(x, ast.Call)]
    assert calls.count("attach") == 1
    assert all(ast.unparse(x).startswith("print(") for block in blocks[1:] for x in block.body)
    set_here = [x for x in inside if isinstance(getattr(x, "ctx", None), ast.Store)]
    assert all(isinstance(x, ast.Name) for x in set_here)  # no setting of anything else
    used = {x.id for x in outside if isinstance(x, ast.Name)}
    assert not used & {"hf", *(x.id for x in set_here if isinstance(x, ast.Name))}
    assert not any(isinstance(x, ast.Attribute) and x.attr == "sieve" for x in outside)


def books(lines: list[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Moves and counts of examples, of what an example printed: `print(sieve.moves,
    sieve.ledger.examples)`."""
    (line,) = (x for x in lines if "Counts(" in x)
    moves, counts = line.split(" Counts(")
    return ast.literal_eval(moves), {k: int(n) for k, n in re.findall(r"(\w+)=(\d+)", counts)}


def small_gpt(folder: Path, pad: str | None = None) -> Path:
    """A decoder with a word tokenizer of its own, with or without a padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

    words = ["[UNK]", "<pad>", "the", "a", "of", "_", "returns", "tensor", "matrix"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token=pad)
    config = GPT2Config(
        vocab_size=len(words),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
