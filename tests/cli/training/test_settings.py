"""`finesieve train` with its settings: small data, frozen layers, passes, methods, dropout."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from finesieve.cli.data import table as data_module
from finesieve.cli.main import main
from finesieve.cli.training.models import load_model, set_dropout
from finesieve.scoring.frozen import layers_of
from tests.conftest import BY_HAND, QUICK, arguments
from tests.tiny import small_gpt


def test_a_decoder_with_padding_trains(files: Path, tmp_path: Path) -> None:
    model = small_gpt(tmp_path / "gpt", pad="<pad>")
    output = tmp_path / "out"
    assert main(arguments(files, output, *BY_HAND, "--model", str(model))) == 0
    assert json.loads((output / "summary.json").read_text())["stages"][-1]["stage"] == 3


@pytest.mark.parametrize("n", [3, 17])
def test_fewer_examples_than_a_batch_and_batch_size_one(
    files: Path, tmp_path: Path, n: int
) -> None:
    lines = (files / "train.jsonl").read_text().splitlines(keepends=True)
    both = [
        line
        for name in ("torch", "sympy")
        for line in [x for x in lines if f'"label": "{name}"' in x][:n]
    ]
    (tmp_path / "few.jsonl").write_text("".join(both))
    size = "64" if n == 3 else "1"
    command = arguments(files, tmp_path / "out", "--batch-size", size)
    command[2] = str(tmp_path / "few.jsonl")
    assert main(command) == 0
    s = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert s["examples"]["drawn"] == s["examples"]["trained"] == 2 * n
    assert s["stages"][-1]["stage"] == 1


def test_hold_out_without_eval_and_a_pair_task(files: Path, tmp_path: Path) -> None:
    rows = [json.loads(x) for x in (files / "train.jsonl").read_text().splitlines()[:60]]
    pairs = [
        {"text_a": a["text"], "text_b": b["text"], "label": int(a["label"] == b["label"])}
        for a, b in itertools.pairwise(rows)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    assert (
        main(
            [
                "train",
                "--train",
                str(tmp_path / "pairs.jsonl"),
                "--output",
                str(tmp_path / "out"),
                "--model",
                str(files / "model"),
                "--quiet",
                *QUICK,
                "--freeze",
                "4",
            ]
        )
        == 0
    )
    s = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert s["eval"]["n"] == 5
    assert s["examples"]["drawn"] == 54


def test_frozen_layers_run_once_an_example(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored examples that survive are trained on from what the layer put out then."""
    seen: list[int] = []

    def watched(*args: Any, **more: Any) -> Any:
        net = load_model(*args, **more)
        # Not of the layer itself, which is called all the same where it is left out.
        layers_of(net)[0].attention.register_forward_hook(
            lambda module, given, out: seen.append(len(given[0]))
        )
        return net

    monkeypatch.setattr("finesieve.cli.training.train.load_model", watched)
    output = tmp_path / "out"
    command = arguments(
        files,
        output,
        "--freeze",
        "1",
        "--set",
        'starts={"2": 0.1, "3": 0.3}',
        "--set",
        "predictor_bits=12",
        "--set",
        "cost_ratio=0.2",
    )
    assert main(command) == 0
    s = json.loads((output / "summary.json").read_text())
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    e, in_the_open = s["examples"], s["stages"][1]["from_example"]
    assert 0 < e["scored"] < 480 - in_the_open
    assert e["trained"] > in_the_open > 0
    tried = 2  # examples that the scorer is tried on: so short a stream has no head start
    assert sum(seen) == tried + in_the_open + e["scored"] + s["eval"]["n"]
    assert all(math.isfinite(x) for x in (s["eval"]["loss"], s["predictor"]["concentration"]))
    assert s["skipped_steps"] == 0
    before, after = (
        load_model(name, ["sympy", "torch"], 0).state_dict()
        for name in (str(files / "model"), str(output / "model"))
    )
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert any("layer.1." in key for key in moved)
    assert not any("layer.0." in key or "embeddings" in key for key in moved)
    assert all(bool(torch.isfinite(x).all()) for x in after.values())


def test_two_epochs(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert main(arguments(files, output, *BY_HAND, "--epochs", "2", "--limit", "160")) == 0
    s = json.loads((output / "summary.json").read_text())
    assert s["examples"]["drawn"] == 320
    assert [m["from_example"] >= 0.2 * 320 for m in s["stages"]] == [False, True, True]
    rows = pq.read_table(output / "examples.parquet").to_pylist()
    first, second = ([r["row"] for r in rows if r["epoch"] == e] for e in (1, 2))
    assert sorted(first) == sorted(second)
    assert first != second  # another order
    assert len(set(first)) == 160


def test_rho_loss_holds_out_its_reference_and_books_it(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = arguments(
        files,
        output,
        "--method",
        "rho-loss",
        "--set",
        "holdout=0.25",
        "--set",
        "warmup=0.2",
        "--limit",
        "240",
    )
    assert main(command) == 0
    s = json.loads((output / "summary.json").read_text())
    assert s["reference_examples"] == 60
    assert s["examples"]["drawn"] == 180
    assert s["examples"]["scored"] > 100
    parts = sum(s["seconds"][k] for k in ("decide", "score", "train", "data"))
    assert parts == pytest.approx(s["seconds"]["total"], rel=0.1)  # the model is tiny
    rows = pq.read_table(output / "examples.parquet").to_pylist()
    assert len({r["row"] for r in rows}) == len(rows) == 180


def test_a_random_subset_is_loaded_as_plain_training_is(files: Path, tmp_path: Path) -> None:
    """Drawn before each epoch: another one each time, in batches of one length as ever."""
    output = tmp_path / "out"
    command = arguments(
        files, output, "--method", "random", "--set", "share=0.3", "--epochs", "2", "--limit", "200"
    )
    assert main(command) == 0
    s = json.loads((output / "summary.json").read_text())
    assert s["examples"] == {"drawn": 400, "scored": 0, "trained": 120, "kept_out": 0}
    assert s["tokens"]["trained"] < 0.4 * s["tokens"]["drawn"]
    assert s["subset"] == 60
    assert s["method"] == "random"
    batch = s["config"]["batch_size"]
    assert s["steps"] == 2 * -(-60 // batch)
    rows = pq.read_table(output / "examples.parquet").to_pylist()
    first, second = ({r["row"] for r in rows if r["epoch"] == e} for e in (1, 2))
    assert len(first) == len(second) == 60
    assert first != second
    assert {r["verdict"] for r in rows} == {"trained"}
    assert {r["weight"] for r in rows} == {1.0}


def test_infobatch_meets_the_same_examples_again(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = arguments(files, output, "--method", "infobatch", "--epochs", "3", "--limit", "160")
    assert main(command) == 0
    rows = pq.read_table(output / "examples.parquet").to_pylist()
    loss = {r["row"]: r["loss"] for r in rows if r["epoch"] == 1}
    second = [r for r in rows if r["epoch"] == 2]
    left_out = [r["row"] for r in second if r["verdict"] == "skipped-forward"]
    assert 20 < len(left_out) < 80
    mean = sum(loss.values()) / len(loss)
    assert max(loss[row] for row in left_out) < mean
    weights = {r["row"]: r["weight"] for r in second if r["weight"] > 0}
    assert set(loss) - set(weights) == set(left_out)
    s = json.loads((output / "summary.json").read_text())
    assert s["examples"]["scored"] == 0
    assert [m["stage"] for m in s["stages"]] == [3, 1]


def test_kept_empty_texts_can_be_trained_on(tmp_path: Path, files: Path) -> None:
    text = (files / "train.jsonl").read_text().splitlines(keepends=True)[:64]
    (tmp_path / "some.jsonl").write_text("".join(text) + '{"text": "", "label": "torch"}\n')
    command = arguments(files, tmp_path / "out", "--keep-empty")
    command[2] = str(tmp_path / "some.jsonl")
    assert main(command) == 0
    s = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert s["examples"]["trained"] == 65
    assert data_module.load(str(tmp_path / "some.jsonl")).notes


def test_dropout_is_set_while_training_and_the_models_own_is_saved(files: Path) -> None:
    tokens = {"input_ids": torch.arange(1000, 1012).reshape(2, 6)}
    calm, own = (
        load_model(str(files / "model"), ["a", "b"], 0, dropout=p).train() for p in (0.0, None)
    )
    with torch.no_grad():
        assert torch.equal(calm(**tokens).logits, calm(**tokens).logits)
        assert not torch.equal(own(**tokens).logits, own(**tokens).logits)
    assert calm.config.hidden_dropout_prob == own.config.hidden_dropout_prob > 0


def test_dropout_in_its_functional_form_is_set_too() -> None:
    class Functional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_dropout = 0.1
            self.inner = torch.nn.Dropout2d(0.3)
            self.width = 0.5

    module = Functional()
    set_dropout(module, 0.0)
    assert (module.attention_dropout, module.inner.p, module.width) == (0.0, 0.0, 0.5)
