"""Other tasks than classifying texts, each through Hugging Face's Trainer and `attach`.

    python benchmarks/tasks.py --data-dir DATA --output results/tasks

A suite as `finesieve bench` runs it (benchmarks/tasks.toml): same seeds, cores, equal-time pairs
and records; only a run is another program, this file with --worker.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import TASKS, Job, Rows, read, renamed

from finesieve.cli import worker
from finesieve.cli.comparing.bench import Bench
from finesieve.cli.comparing.suite import read_suite
from finesieve.cli.config import Config
from finesieve.cli.results import pack_examples
from finesieve.errors import ConfigError
from finesieve.gates.simple import Random

ROOT = Path(__file__).parent


def one(config: Config) -> dict[str, Any]:
    """The run of a configuration."""
    return run(config, TASKS[Path(config.train).parent.name](config, *rows_of(config)))


def rows_of(config: Config) -> tuple[Rows, Rows]:
    """To train on, and held out."""
    held_out = [r for path in config.eval for r in read(path, config.eval_limit, 0)]
    return read(config.train, config.limit, config.seed), held_out


def run(config: Config, job: Job) -> dict[str, Any]:
    """Train, judge, and give the summary that a record is made of."""
    from transformers import Trainer, TrainingArguments

    from finesieve import methods
    from finesieve.cli.training.summary import hardware, versions
    from finesieve.integrations.transformers import attach as hf

    method, drawn = (
        methods.registry.build(config.method, config.seed, **config.settings),
        len(job.train),
    )
    subset = None
    if isinstance(method.forward, Random):  # drawn beforehand, batched as plain training is
        subset = max(1, round(method.forward.share * drawn))
        order = np.random.default_rng([config.seed, 80]).permutation(drawn)
        job.train, method = (
            [job.train[i] for i in order[:subset]],
            methods.registry.build("full", config.seed),
        )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = (job.host or Trainer)(
            job.model,
            TrainingArguments(
                scratch,
                **renamed(
                    num_train_epochs=config.epochs,
                    learning_rate=config.lr,
                    per_device_train_batch_size=config.batch_size,
                    weight_decay=config.weight_decay,
                    warmup_steps=config.warmup,
                    seed=config.seed,
                    bf16=config.precision == "bf16",
                    use_cpu=True,
                    report_to=[],
                    disable_tqdm=True,
                    save_strategy="no",
                    logging_strategy="no",
                    remove_unused_columns=False,
                    **{"train_sampling_strategy": "group_by_length", **job.arguments},
                ),
            ),
            data_collator=job.collate,
            train_dataset=job.dataset(job.train),
            **job.trainer,
        )
        attached = hf.attach(trainer, method, **job.sieve)
        trainer.train()
    sieve = attached.sieve
    assert sieve is not None
    # Without the trainer's autocast, which lies in the model's forward: full precision.
    job.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    loss, metric = judged(job, hf.head_of(job.model))
    ledger = sieve.ledger
    return {
        "method": config.method,
        "seed": config.seed,
        "examples": {
            "drawn": drawn * config.epochs,
            "scored": ledger.examples.scored,
            "trained": ledger.examples.yielded,
        },
        "seconds": {
            **{k: round(v, 4) for k, v in ledger.seconds.items()},
            "total": round(sum(ledger.seconds.values()), 4),
        },  # without the Trainer's start
        "steps": trainer.state.global_step,
        "subset": subset,
        "stages": sieve.moves,
        "cost_ratio": sieve.cost_ratio,
        "eval": {"accuracy": metric, "loss": float(loss.mean()), "n": len(loss)},
        "eval_examples": pack_examples(loss, np.zeros(len(loss), dtype=bool)),
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
        "config": config.as_dict(),
    }


def judged(job: Job, head: Any) -> tuple[Any, float]:
    """Loss float[n] of the held-out examples, and the task's metric."""
    model = job.model.eval()
    order = sorted(range(len(job.held_out)), key=lambda i: len(job.held_out[i]["input_ids"]))
    loss, logits = np.empty(len(order)), [torch.empty(0)] * len(order)
    with torch.inference_mode():
        for at in range(0, len(order), 32):
            index = order[at : at + 32]
            batch = job.collate([job.held_out[i] for i in index])
            out = model(**{k: v for k, v in batch.items() if k != "labels"})
            loss[index] = head.losses(out, batch).numpy()
            for i, row in zip(index, out.logits.float(), strict=True):
                logits[i] = row
    return loss, job.metric(logits, job.held_out)


class TaskBench(Bench):
    worker = (str(Path(__file__).resolve()), "--worker")


def main(argv: Iterable[str]) -> int:
    given = list(argv)
    if given[:1] == ["--worker"]:
        return worker.main(given[1], given[2], one)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default=str(ROOT / "tasks.toml"))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--sets", nargs="+", help="these alone; by default the claim sets")
    parser.add_argument("--seeds", type=int, help="so many; by default as the suite says")
    args = parser.parse_args(given)
    suite = read_suite(args.suite)
    suite = replace(suite, claim=tuple(args.sets or suite.claim), seeds=args.seeds or suite.seeds)
    if unknown := sorted({*suite.claim} - suite.sets.keys()):
        raise ConfigError(f"no set {', '.join(unknown)}; there are {', '.join(sorted(suite.sets))}")
    records = TaskBench(
        suite,
        args.data_dir,
        args.output,
        args.workers,
        "python benchmarks/tasks.py --data-dir DATA --output RESULTS",
    ).run()
    return int(any("failed" in r for r in records))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
