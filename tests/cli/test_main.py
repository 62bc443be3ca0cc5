"""The command line on real data with the real encoder; bad input; interruption and resuming."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from finesieve.cli.data import table as data_module
from finesieve.cli.data.table import load
from finesieve.cli.main import main
from finesieve.cli.training.models import load_model, set_dropout
from finesieve.cli.training.train import Run
from finesieve.scoring.frozen import layers_of
from tests.conftest import BY_HAND, QUICK, THREADS, arguments


def test_summary_has_what_it_must(finished: Path) -> None:
    s = json.loads((finished / "summary.json").read_text())
    assert s["method"] == "finesieve"
    assert s["seed"] == 0
    e = s["examples"]
    assert e["drawn"] == 480 > e["scored"] > 0
    assert e["trained"] < 480
    assert s["tokens"]["trained"] > 0 < s["tokens"]["scored"]
    parts = sum(s["seconds"][k] for k in ("decide", "score", "train", "data"))
    assert parts == pytest.approx(s["seconds"]["total"], rel=0.1)  # the model is tiny
    assert [m["stage"] for m in s["stages"]] == [1, 2, 3]
    assert all(m["reason"] and m["from_example"] >= 0 for m in s["stages"])
    assert s["eval"]["n"] == 120
    assert 0.5 < s["eval"]["accuracy"] < 1
    assert torch.__version__.startswith(s["versions"]["torch"])  # which may go on with +cu124
    assert s["config"]["settings"]["predictor_bits"] == 12


def test_examples_tell_every_examples_fate(finished: Path) -> None:
    table = pq.read_table(finished / "examples.parquet")
    assert table.num_rows == 480
    assert sorted(table["row"].to_pylist()) == list(range(480))
    s = json.loads((finished / "summary.json").read_text())
    fate = table["verdict"].to_pylist()
    assert fate.count("trained") == s["examples"]["trained"]
    rows = table.to_pylist()
    scored = [r for r in rows if r["stage"] > 1 and r["verdict"] != "skipped-forward"]
    assert len(scored) == s["examples"]["scored"]
    for r in rows:
        assert (r["weight"] > 0) == (r["verdict"] == "trained")
        assert (r["loss"] is None) == (r["verdict"] == "skipped-forward")
        if r["stage"] > 1:
            assert r["predicted"] > 0


def test_log_is_json_lines(finished: Path) -> None:
    events = [json.loads(line) for line in (finished / "run.jsonl").read_text().splitlines()]
    kinds = [e["event"] for e in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("stage") == 3


def test_the_model_loads_with_from_pretrained(finished: Path, files: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    model = AutoModelForSequenceClassification.from_pretrained(finished / "model").eval()
    table = load(str(files / "eval.jsonl"))
    batch = tokenizer(
        table.texts, truncation=True, max_length=16, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        best = model(**batch).logits.argmax(-1)
    right = [model.config.id2label[int(i)] == y for i, y in zip(best, table.labels, strict=True)]
    s = json.loads((finished / "summary.json").read_text())
    assert sum(right) / 120 == pytest.approx(s["eval"]["accuracy"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    finished: Path,
    files: Path,
    tmp_path: Path,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal comes in stage 2: mid-run, survivors held."""
    output = tmp_path / "cut"
    command = arguments(files, output, *BY_HAND)
    step, steps = Run._step, itertools.count(1)

    def stopped(run: Run, batch: Any) -> None:
        step(run, batch)
        if next(steps) == 12:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "_step", stopped)
    assert main(command) == 128 + number
    assert "Go on with:\n  finesieve train" in capsys.readouterr().err
    assert (output / "checkpoint.pt").exists()
    assert not (output / "summary.json").exists()

    assert main(command) == 2  # not over an unfinished run
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--seed", "5", "--resume"]) == 2
    assert "another configuration (seed: 0 then, 5 now)" in capsys.readouterr().err

    assert main([*command, "--resume"]) == 0
    one = torch.nn.Module.state_dict(load_model(str(finished / "model"), ["sympy", "torch"], 0))
    two = torch.nn.Module.state_dict(load_model(str(output / "model"), ["sympy", "torch"], 0))
    assert all(torch.equal(one[k], two[k]) for k in one)
    a = pq.read_table(finished / "examples.parquet")
    assert a.equals(pq.read_table(output / "examples.parquet"))
    assert not (output / "checkpoint.pt").exists()
    assert main([*command, "--resume"]) == 2
    assert "the run in it is complete" in capsys.readouterr().err


def test_damaged_and_foreign_checkpoints(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    command = [*arguments(files, output), "--resume"]
    (output / "checkpoint.pt").write_bytes(b"half a file")
    assert main(command) == 2
    assert "damaged or no checkpoint" in capsys.readouterr().err
    torch.save({"version": 99}, output / "checkpoint.pt")
    assert main(command) == 2
    assert "checkpoint version 99" in capsys.readouterr().err


def test_compare_prints_one_table(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all"
    command = [
        "compare",
        "--train",
        str(files / "train.jsonl"),
        "--eval",
        str(files / "eval.jsonl"),
        "--output",
        str(output),
        "--model",
        str(files / "model"),
        "--quiet",
        "--methods",
        "full,paper,finesieve",
        *QUICK,
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    for name in ("full", "paper", "finesieve", "random at equal time"):
        assert f"| {name} |" in out
    # 480 examples end within the warm-up, and it says so.
    assert "finesieve is the same as full here: its gates stayed open" in out
    results = json.loads((output / "compare.json").read_text())
    assert [r["name"] for r in results] == ["full", "paper", "finesieve", "random at equal time"]
    assert (output / "compare.md").read_text().strip() in out
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err


# ---- bad input: status 2, one message, no traceback, nothing written


def bad(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.count("finesieve: error:") == 1
    return captured.err


CASES: list[tuple[list[str], str]] = [
    (["--train", "no.jsonl"], "no file"),
    (["--label", "lable"], "did you mean 'label'"),
    (["--text", "body"], "has no column 'body'"),
    (["--method", "finesive"], "did you mean 'finesieve'"),
    (["--set", "train=20"], "expected a share in (0, 1], e.g. 0.2 for 20 %"),
    (["--set", "train=0"], "expected a share in (0, 1]"),
    (["--set", "score=-1"], "expected a share in (0, 1]"),
    (["--set", "trian=0.2"], "trian"),
    (["--set", "seed=3"], "seed is set for the whole run"),
    (["--set", "slack=Infinity"], "expected a finite number"),
    (["--set", "recent=0"], "recent is 0; expected a number of examples"),
    (["--set", "recent=5.5"], "expected a whole number"),
    (["--set", "least=null"], "expected a finite number"),
    (["--set", "cost_ratio=abc"], "expected a finite number"),
    (["--set", "window=2048.5"], "expected a whole number"),
    (["--method", "paper", "--set", "vocabulary=99999999999"], "vocabulary"),
    (["--seed", "-1"], "seed is -1"),
    (["--weight-decay", "nan"], "weight_decay"),
    (["--device", "meta"], "no device"),
    (["--set", "train"], "expected NAME=VALUE"),
    (["--set", "starts=3"], "expected e.g. starts="),
    (["--method", "random", "--set", "share=1.2"], "expected a share"),
    (["--batch-size", "0"], "batch_size is 0"),
    (["--epochs", "0"], "epochs is 0"),
    (["--lr", "5"], "expected a learning rate"),
    (["--model", "./nowhere"], "no folder"),
    (["--device", "tpu9"], "no device"),
    (["--max-length", "9999"], "512 positions"),
    (["--freeze", "99"], "the model has 6 layers"),
    (["--lora", "-1"], "lora is -1; expected a rank"),
    (["--dropout", "1.5"], "dropout is 1.5"),
    (["--dropout", "some"], "expected a rate or 'model'"),
]


@pytest.mark.parametrize(("more", "message"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_bad_arguments(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert message in bad(capsys, *arguments(files, tmp_path / "out", *more))


def folder_of(files: Path, tmp_path: Path, *skip: str) -> Path:
    target = tmp_path / "model"
    shutil.copytree(files / "model", target, ignore=shutil.ignore_patterns(*skip))
    return target


def test_a_model_folder_without_weights(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder_of(files, tmp_path, "*.safetensors")
    message = bad(capsys, *arguments(files, tmp_path / "out", "--model", str(model)))
    assert "has no weights; expected one of model.safetensors" in message
    (model / "config.json").unlink()
    message = bad(capsys, *arguments(files, tmp_path / "out2", "--model", str(model)))
    assert "has no config.json" in message


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


def test_a_decoder_with_padding_trains(files: Path, tmp_path: Path) -> None:
    model = small_gpt(tmp_path / "gpt", pad="<pad>")
    output = tmp_path / "out"
    assert main(arguments(files, output, *BY_HAND, "--model", str(model))) == 0
    assert json.loads((output / "summary.json").read_text())["stages"][-1]["stage"] == 3


def test_a_tokenizer_without_padding(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_gpt(tmp_path / "gpt")
    message = bad(capsys, *arguments(files, tmp_path / "out", "--model", str(model)))
    assert "has no padding token" in message


def test_an_output_folder_in_use(
    finished: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "summary.json").read_text()
    assert "holds another run" in bad(capsys, *arguments(files, finished))
    assert (finished / "summary.json").read_text() == before
    (tmp_path / "file").write_text("mine")
    assert "is a file" in bad(capsys, *arguments(files, tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    assert "nothing to resume" in bad(capsys, *arguments(files, tmp_path / "new", "--resume"))


def test_a_run_that_ended_in_its_evaluation_goes_on_from_there(files: Path, tmp_path: Path) -> None:
    """Training done, checkpoint written, then killed: nothing is trained twice, nothing lost."""
    from finesieve.cli.config import Config
    from finesieve.cli.training.prepare import prepare
    from finesieve.cli.training.progress import Live
    from finesieve.cli.training.runfiles import RunFolder

    config = Config(
        train=str(files / "train.jsonl"),
        eval=(str(files / "eval.jsonl"),),
        model=str(files / "model"),
        max_length=16,
        batch_size=16,
        lr=3e-4,
        threads=THREADS,
        limit=64,
    )
    folder = RunFolder(str(tmp_path / "out"), resume=False)
    run = Run(config, prepare(config), folder, Live("", quiet=True))
    run.train()
    run.save()
    trained = {k: v.clone() for k, v in run.model.state_dict().items()}
    assert main(arguments(files, tmp_path / "out", "--limit", "64", "--resume")) == 0
    saved = load_model(str(tmp_path / "out" / "model"), ["sympy", "torch"], 0).state_dict()
    assert all(torch.equal(trained[k], saved[k]) for k in trained)
    s = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert s["steps"] == 4


def test_resuming_on_other_data_is_refused(
    finished: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from finesieve.cli.config import Config
    from finesieve.cli.training.prepare import prepare
    from finesieve.cli.training.progress import Live
    from finesieve.cli.training.runfiles import CHECKPOINT_VERSION, RunFolder

    config = Config(
        **{
            **json.loads((finished / "summary.json").read_text())["config"],
            "settings": {},
            "train": str(tmp_path / "t.jsonl"),
        }
    )
    lines = (files / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "t.jsonl").write_text("".join(lines))
    folder = RunFolder(str(tmp_path / "out"), resume=False)
    Run(config, prepare(config), folder, Live("", quiet=True)).save()
    command = arguments(files, tmp_path / "out", "--resume")
    command[2] = str(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_text("".join(reversed(lines)))
    assert "another configuration (training data:" in bad(capsys, *command)
    torch.save({"version": CHECKPOINT_VERSION}, tmp_path / "out" / "checkpoint.pt")
    assert "another configuration" in bad(capsys, *command)
    torch.save({"version": CHECKPOINT_VERSION + 1}, tmp_path / "out" / "checkpoint.pt")
    assert f"this finesieve reads {CHECKPOINT_VERSION}" in bad(capsys, *command)


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


def test_nan_losses_stop_the_run_with_a_message(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose weights are NaN: every loss is; the rule is said, and the status is 2."""
    model = folder_of(files, tmp_path)
    net = load_model(str(model), ["a", "b"], 0)
    with torch.no_grad():
        net.classifier.weight.fill_(float("nan"))
    net.save_pretrained(model)
    message = bad(capsys, *arguments(files, tmp_path / "out", "--model", str(model)))
    assert "NaN or infinite (the run stops at more than 1 %" in message


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
