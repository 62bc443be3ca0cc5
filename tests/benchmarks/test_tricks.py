"""benchmarks/tricks.py: each trick is what it is called, under the sieve too."""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import write_tables
from finesieve import ConfigError
from finesieve.cli.comparing.bench import Bench
from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.comparing.suite import Files, read_suite
from finesieve.cli.config import Config
from finesieve.cli.results import read_all
from tests.cli.comparing.suites import record
from tests.tiny import bert, tokenizer

pytest.importorskip("accelerate")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning",  # the name that older transformers know too
    "ignore:.*torch.cpu.amp.autocast:FutureWarning",  # by which those ask for it
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
)  # PEFT asks transformers by an old name

ROOT = Path(__file__).parents[2]
SUITE = read_suite(ROOT / "benchmarks" / "tricks.toml")
LONGEST = 24
CLOSED = {"train": 0.3, "score": 0.6, "starts": {"2": 0.15, "3": 0.4}, "cost_ratio": 0.2}


@pytest.fixture(scope="module")
def tricks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("tricks")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's files, of texts whose first word tells the class mostly."""
    folder, dice = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "snips").mkdir()
    for name, n in (("train", 320), ("validation", 16), ("test", 16)):
        with gzip.open(folder / "snips" / f"{name}.jsonl.gz", "wt") as file:
            for _ in range(n):
                label = int(dice.integers(0, 3))
                words = [
                    f"w{20 * label}",
                    *(f"w{i}" for i in dice.integers(0, 60, dice.integers(1, 18))),
                ]
                file.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    return folder


def config(data: Path, trick: str, tmp_path: Path, **more: Any) -> Config:
    """What the suite says of this trick, made small, with gates that close by hand."""
    made = SUITE.config_of(trick, "finesieve", 0, {}, Files(SUITE, data, tmp_path)).as_dict()
    made |= {
        "eval": tuple(made["eval"]),
        "settings": CLOSED,
        "max_length": LONGEST,
        "batch_size": 8,
        "lr": 1e-2,
        **more,
    }
    return Config(**made)


@pytest.fixture
def run(tricks: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trick's job, run with a tiny model; what the model was given and gave is written down."""
    from finesieve.integrations.transformers import attach as hf

    made: list[Any] = []
    widths: list[int] = []

    def attach(trainer: Any, *args: Any, **options: Any) -> Any:
        made.append(hf_attach(trainer, *args, pool=32, group=2, **options))
        plain = trainer.training_step

        def step(model: Any, inputs: Any, *rest: Any) -> Any:
            widths.append(inputs["input_ids"].shape[1])
            return plain(model, inputs, *rest)

        trainer.training_step = step
        return made[-1]

    hf_attach = hf.attach
    monkeypatch.setattr(hf, "attach", attach)
    monkeypatch.setattr(tricks.jobs, "minilm", tiny)

    def ran(trick: str, **arguments: Any) -> Any:
        more = {"freeze": arguments.pop("freeze")} if "freeze" in arguments else {}
        given = config(data, trick, tmp_path, **more)
        job = tricks.classes(given, *tricks.tasks.rows_of(given))
        tricks.TRICKS[trick](given, job)
        job.arguments.update(arguments)
        before = {k: v.clone() for k, v in job.model.state_dict().items()}
        passes: dict[bool, list[Any]] = {True: [], False: []}
        layer = next(m for k, m in job.model.named_modules() if k.endswith("attention.self"))
        if trick != "compile":  # which a hook would disturb
            layer.register_forward_hook(
                lambda module, given, out: passes[module.training].append(
                    SimpleNamespace(width=out[0].shape[1], dtype=out[0].dtype)
                )
            )
        summary = tricks.tasks.run(given, job)
        end = [m["stage"] for m in summary["stages"]]
        assert end[-1] == 3, end
        assert 0 < summary["examples"]["trained"] < summary["examples"]["drawn"] == 320
        assert summary["examples"]["scored"] > 0
        assert summary["eval"]["n"] == 32
        moved = {k for k, v in job.model.state_dict().items() if not torch.equal(v, before[k])}
        return SimpleNamespace(
            summary=summary,
            job=job,
            moved=moved,
            attached=made[-1],
            training=passes[True],
            others=passes[False],
            widths=widths,
        )

    return ran


def tiny(kind: str, config: Any, num_labels: int) -> tuple[Any, Any]:
    from finesieve.cli.training.models import set_dropout

    assert kind == "SequenceClassification"
    model = bert(num_labels, config.seed)
    set_dropout(model, 0.0)
    return model, tokenizer()


def test_every_set_of_the_suite_is_a_trick_on_the_same_texts(tricks: Any) -> None:
    assert set(SUITE.sets) == set(tricks.TRICKS)
    files = {(one["train"], *one["eval"]) for one in SUITE.sets.values()}
    assert len(files) == 1


def test_plain_is_fp32_with_dynamic_padding(run: Any) -> None:
    done = run("plain")
    assert {p.dtype for p in (*done.training, *done.others)} == {torch.float32}
    assert len(set(done.widths)) > 4
    assert len(done.training) == len(done.widths) == done.summary["steps"]
    assert any("word_embeddings" in k for k in done.moved)


def test_bf16(run: Any) -> None:
    done = run("bf16")
    assert {p.dtype for p in done.training} == {done.others[0].dtype} == {torch.bfloat16}
    assert done.others[-1].dtype == torch.float32  # judged


def test_frozen_layers_do_not_move_and_are_shared(run: Any) -> None:
    done = run("freezing", freeze=1)
    assert done.moved
    assert not [k for k in done.moved if "embeddings" in k or ".layer.0." in k]
    assert done.attached._prefix is not None
    # The first layer is run in training while the gates are open alone: then it rides along.
    assert 0 < len(done.training) < done.summary["steps"]


def test_padded_batches_are_all_of_one_width(run: Any) -> None:
    done = run("padded")
    assert {p.width for p in (*done.training, *done.others)} == set(done.widths) == {LONGEST}


def test_checkpointing_runs_the_layers_once_more_in_training_alone(run: Any) -> None:
    done = run("checkpointing")
    assert len(done.training) == 2 * done.summary["steps"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on one core
def test_workers_a_stream_and_a_sampler_feed_the_sieve(run: Any) -> None:
    """That they are what is drawn from: workers load, a stream has no places, and a sampler with
    replacement draws some texts twice and the later classes oftener."""
    done = run("workers")
    assert done.attached.trainer.args.dataloader_num_workers == 2
    done = run("stream")
    assert isinstance(done.attached.trainer.train_dataset, torch.utils.data.IterableDataset)
    done = run("sampler")
    host = done.attached.trainer
    order = list(host._get_train_sampler())
    assert len(order) == 320 > len(set(order))
    labels = [host.train_dataset[i]["labels"] for i in order]
    rows = [r["labels"] for r in host.train_dataset]
    last = max(rows)
    assert labels.count(last) / rows.count(last) > 1.2 * labels.count(0) / rows.count(0)


def test_lora_trains_adapters_and_classifier_alone(run: Any) -> None:
    pytest.importorskip("peft")
    done = run("lora")
    learns = {k for k, p in done.job.model.named_parameters() if p.requires_grad}
    assert all("lora_" in k or "modules_to_save" in k for k in learns)
    assert {k for k in done.moved if "lora_B" in k}
    assert {k for k in done.moved if "classifier.modules_to_save" in k}
    assert done.moved <= learns
    for name in ("query", "value"):
        assert any(name in k for k in learns)


def test_class_weights_are_in_the_loss_of_scoring_and_of_training(run: Any, tricks: Any) -> None:
    asked = []
    plain = tricks.class_weights

    def noted(given: Config, job: Any) -> None:
        plain(given, job)
        losses, mean = job.sieve["losses"], job.trainer["compute_loss_func"]
        logits, labels = torch.randn(9, 3), torch.arange(9) % 3
        expected = F.cross_entropy(logits, labels, reduction="none") * (0.5 + 0.5 * labels)
        out = SimpleNamespace(logits=logits)
        torch.testing.assert_close(losses(lambda **_: out, {"labels": labels}), expected)
        torch.testing.assert_close(mean(out, labels), expected.mean())
        job.sieve["losses"] = lambda model, batch: (
            asked.append(model.training) or losses(model, batch)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tricks.TRICKS, "class-weights", noted)
        done = run("class-weights")
    assert asked.count(True) == done.summary["steps"]
    assert asked.count(False) >= 4
    host = done.attached.trainer  # whose own loss full training and the random subset have
    assert host.compute_loss_func is done.job.trainer["compute_loss_func"]


def test_smoothing_is_in_both_losses(run: Any) -> None:
    attached = run("smoothing").attached
    assert attached.head.smoothing == attached.trainer.label_smoother.epsilon == 0.1


def test_compiled_batches_are_of_few_lengths(run: Any) -> None:
    done = run("compile", torch_compile_backend="eager")
    assert set(done.widths) == {16, LONGEST}
    torch._dynamo.reset()


def test_a_worker_is_told_its_trick(
    tricks: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tricks.jobs, "minilm", tiny)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    spec, out = tmp_path / "spec", tmp_path / "out"
    given = config(data, "smoothing", tmp_path, method="full", settings={})
    spec.write_text(json.dumps({"config": given.as_dict(), "cpus": []}))
    found = []
    monkeypatch.setattr(tricks.tasks, "run", lambda config, job: found.append((config, job)) or {})
    assert tricks.main(["--worker", "smoothing", str(spec), str(out)]) == 0
    assert found[0][0] == given
    assert found[0][1].arguments == {"label_smoothing_factor": 0.1}
    assert len(found[0][1].train) == 320
    assert set(found[0][1].train[0]) >= {"input_ids", "attention_mask", "labels"}


def test_each_trick_has_its_own_bench_in_one_folder(
    tricks: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def process(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        file, flag, trick = self.worker
        assert (Path(file).name, flag) == ("tricks.py", "--worker")
        asked.append((trick, config.method))
        share = config.settings.get("share", {"full": 1.0, "finesieve": 0.5}.get(config.method))
        return {
            "seconds": {"total": 100 * share, "train": 90 * share},
            "steps": 1,
            "eval": {"accuracy": 0.9, "loss": 0.1},
            "examples": {"drawn": 100, "trained": 100 * share},
        }

    monkeypatch.setattr(Bench, "_process", process)
    output = tmp_path / "out"
    assert tricks.main(["--data-dir", str(data), "--output", str(output), "--workers", "1"]) == 0
    assert {t for t, _ in asked} == set(SUITE.claim)
    assert len(asked) == 3 * SUITE.seeds * len(SUITE.claim)
    records, complaints = read_all(output)
    assert not complaints
    assert {(r["set"], r["name"]) for r in records} == {
        (trick, method) for trick in SUITE.claim for method in SUITE.methods
    }
    assert {r["command"] for r in records} == {tricks.COMMAND}


def test_a_trick_that_there_is_not_is_named(tricks: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lorra.*compile, .*padded"):
        tricks.main(["--data-dir", str(data), "--output", str(tmp_path), "--tricks", "lorra"])


def test_a_row_of_the_table_tells_a_trick(tricks: Any) -> None:
    loss = np.random.default_rng(0).random(400)
    records = []
    for seed in range(2):
        for name, more, seconds, total in (
            ("full", 0.0, 80.0, 0),
            ("finesieve", 0.02, 40.0, 50),
            (RIVAL, 0.5, 40.0, 0),
        ):
            one = record(name, seed, loss + more, set="lora")
            one["seconds"] = {"total": seconds, "score": 5.0, "train": 15.0}
            one["examples"] = {"drawn": 100, "trained": 30 if total else 100, "scored": total}
            records.append(one)
    head, _, row, empty = write_tables.tricks_table(records, ["lora", "fp32"]).splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert row.startswith("| lora | 80.0 | 40.0 | 2.0x |")
    assert cells["scoring / training an example"] == "0.20"
    assert (cells["trained"], cells["scored"]) == ("30%", "50%")
    losses = [float(cells[f"loss, {m}"]) for m in ("full", "finesieve", RIVAL)]
    assert losses == sorted(losses)
    assert losses[2] - losses[0] == pytest.approx(0.5, abs=1e-3)
    assert row.count("better: -0.48") == 1
    assert empty.count("|") == head.count("|")
    records[-1]["equal_time"] = {"target": 30.0}
    assert "time off by up to 33%" in write_tables.tricks_table(records, ["lora"])
