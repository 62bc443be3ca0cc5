"""Does the gain multiply with the tricks that people use already? Each through the Trainer.

    python benchmarks/tricks.py --data-dir DATA --output results/tricks

A suite as `finesieve bench` runs it (benchmarks/tricks.toml), whose sets are the tricks: the same
texts each time, and the same training but for the trick. A configuration knows nothing of tricks,
so each has a bench of its own, whose runs are this file with --worker TRICK.

All are judged alike: plain cross-entropy and accuracy, in full precision.

`compile` is torch.compile with Inductor: each run compiles anew, its total holds the seconds of
that (`compile_seconds` says how many they are), and on a CPU they are half of what these texts
take. The Trainer compiles training alone, not scoring.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import tasks
import torch
from jobs import TEXT, Job, Rows
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset, WeightedRandomSampler

from finesieve.cli import worker
from finesieve.cli.comparing.bench import Bench
from finesieve.cli.comparing.suite import Suite, read_suite
from finesieve.cli.config import Config
from finesieve.cli.results import Record
from finesieve.errors import ConfigError

ROOT = Path(__file__).parent
COMMAND = "python benchmarks/tricks.py --data-dir DATA --output RESULTS"


def classes(config: Config, train: Rows, held_out: Rows) -> Job:
    """The training without a trick: a class a text, dynamic padding."""
    model, tokenizer = jobs.minilm(
        "SequenceClassification", config, num_labels=1 + max(r["label"] for r in train)
    )

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        return {
            **tokenizer(row["text"], truncation=True, max_length=config.max_length),
            "labels": row["label"],
        }

    return jobs.made(
        model, encoded, train, held_out, lambda rows: jobs.padded(rows, TEXT), jobs.accuracy
    )


# ---- the tricks: each changes the job


def none(config: Config, job: Job) -> None:
    """Nothing here: what there is to it stands in the suite."""


def freezing(config: Config, job: Job) -> None:
    """The configuration says how many layers. A model that is frozen has its frozen layers' outputs
    computed once an example where a sieve scores; plain training runs them once anyway."""
    from finesieve import methods
    from finesieve.scoring.frozen import FrozenPrefix, freeze

    freeze(job.model, config.freeze)
    if methods.registry.build(config.method, config.seed, **config.settings).scores:
        job.sieve.update(prefix=FrozenPrefix(job.model, config.freeze))


def lora(config: Config, job: Job) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    job.model = get_peft_model(
        job.model,
        LoraConfig(
            task_type="SEQ_CLS",
            r=8,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
        ),
    )


def checkpointing(config: Config, job: Job) -> None:
    job.arguments.update(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    )


def compiled(config: Config, job: Job) -> None:
    """A few fixed lengths, for all methods alike, so that few shapes are compiled."""
    job.arguments.update(torch_compile=True)
    job.sieve.update(
        lengths=sorted({*(w for w in (16, 32) if w < config.max_length), config.max_length})
    )


def class_weights(config: Config, job: Job) -> None:
    """From 0.5 to 1.5, as if the later classes mattered more: of like frequency, they would all be
    1 by the usual rule. The sieve is given the loss as a function (docs/how-to/own-task.md)."""
    weights = torch.linspace(0.5, 1.5, job.model.config.num_labels)

    def each(outputs: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits.float(), labels, weight=weights, reduction="none")

    def losses(model: nn.Module, batch: Any) -> Tensor:
        given = {k: v for k, v in batch.items() if k != "labels"}
        return each(model(**given), batch["labels"])

    def mean(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return each(outputs, labels).mean()

    job.trainer.update(compute_loss_func=mean)
    job.sieve.update(losses=losses)


def smoothing(config: Config, job: Job) -> None:
    job.arguments.update(label_smoothing_factor=0.1)


def fixed_padding(config: Config, job: Job) -> None:
    """Every batch of the longest length. The sieve would cut its batches to their longest example:
    kept from it, since that is another trick than leaving examples out."""
    job.collate = lambda rows: jobs.padded(rows, TEXT, config.max_length)
    job.sieve.update(lengths=[config.max_length])


def workers(config: Config, job: Job) -> None:
    job.arguments.update(dataloader_num_workers=2)


class Stream(IterableDataset[dict[str, Any]]):
    """Rows in an order of their own, once an iteration: batches hold texts of all lengths."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows, self.seed = rows, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i in np.random.default_rng(self.seed).permutation(len(self.rows)):
            yield self.rows[i]


def stream(config: Config, job: Job) -> None:
    job.dataset = partial(Stream, seed=config.seed)
    job.arguments.update(train_sampling_strategy="random")  # that of a dataset with places


def sampler(config: Config, job: Job) -> None:
    """Drawn with replacement, the later classes up to three times as often as the first."""
    from transformers import Trainer

    class Weighted(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            labels = torch.tensor([r["labels"] for r in self.train_dataset])
            weights = torch.linspace(0.5, 1.5, 1 + int(labels.max()))[labels]
            return WeightedRandomSampler(
                weights.tolist(), len(labels), generator=torch.Generator().manual_seed(config.seed)
            )

    job.host = Weighted


TRICKS: dict[str, Callable[[Config, Job], None]] = {
    "plain": none,
    "freezing": freezing,
    "lora": lora,
    "checkpointing": checkpointing,
    "bf16": none,
    "compile": compiled,
    "class-weights": class_weights,
    "smoothing": smoothing,
    "padded": fixed_padding,
    "workers": workers,
    "stream": stream,
    "sampler": sampler,
}


# ---- the runs


def one(trick: str, config: Config) -> dict[str, Any]:
    """The run of a configuration with this trick."""
    job = classes(config, *tasks.rows_of(config))
    TRICKS[trick](config, job)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # nothing compiled by an earlier run
        summary = tasks.run(config, job)
    if job.arguments.get("torch_compile"):
        from torch._dynamo.utils import calculate_time_spent, counters

        summary["compile_seconds"] = round(calculate_time_spent()["total_wall_time"], 4)
        summary["graphs_compiled"] = int(counters["stats"]["unique_graphs"])
    return summary


class TrickBench(Bench):
    """The set of one trick."""

    def __init__(self, trick: str, suite: Suite, *rest: Any) -> None:
        super().__init__(replace(suite, claim=(trick,)), *rest)
        self.worker = (str(Path(__file__).resolve()), "--worker", trick)


def main(argv: Iterable[str]) -> int:
    given = list(argv)
    if given[:1] == ["--worker"]:
        return worker.main(given[2], given[3], partial(one, given[1]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default=str(ROOT / "tricks.toml"))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--tricks", nargs="+", help="these alone; by default the claim sets")
    args = parser.parse_args(given)
    suite = read_suite(args.suite)
    chosen = args.tricks or suite.claim
    if unknown := sorted({*chosen} - (TRICKS.keys() & suite.sets.keys())):
        raise ConfigError(f"no trick {', '.join(unknown)}; there are {', '.join(sorted(TRICKS))}")
    records: list[Record] = []
    for trick in chosen:
        records += TrickBench(trick, suite, args.data_dir, args.output, args.workers, COMMAND).run()
    return int(any("failed" in r for r in records))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
