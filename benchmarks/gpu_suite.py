"""Does selecting beat a random subset of the same cost? Ten sets, three seeds, on one GPU.

    python benchmarks/gpu_suite.py --prepare FOLDER --data-dir DATA
    python benchmarks/gpu_suite.py --inputs FOLDER --processes 8 --minutes 5 --output suite.jsonl
    python benchmarks/gpu_suite.py --inputs FOLDER --output suite.jsonl --table

Costs are counted, not timed, since several processes share the GPU: an example that is trained on
costs 1, one that is scored costs `--ratio` (0.05 where launches bind, 0.3 where compute does); the
head start's examples are scored ones. The sieve is told the same ratio, and has full batches. Each
method is run with three learning rates on the tuning sets first, and then, with the one of least
held-out loss, on the others. The same command goes on where an earlier one ended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:  # from a checkout that was not installed, too
    sys.path.insert(0, str(ROOT))

TUNING = ("emotion", "subj")
CLAIM = (  # "+flip20": a fifth of the labels replaced by wrong ones
    "snips", "clickbait", "snips+flip20", "hate_offensive", "ag_news-crowd", "trec6", "banking77",
    "cad_nli", "reuters_r8", "dbpedia14", "sst2",
)  # fmt: skip
# Where settings of ours are compared, none of them a claim's.
DEVELOPMENT = ("emotion", "subj", "hwu64", "airline_tweets", "emotion+flip20", "subj+flip20")
RATES = (1e-4, 2e-4, 4e-4)
# "plain" has no fitted head, all others have; "random" has the cost of "ours" at the same ratio.
METHODS = ("plain", "full", "ours", "random", "paper")
HEAD = 512  # examples of the head start, but a twentieth of the set at the most
PRICED = ("ours", "random")  # for which costs matter
OPTIONS = ("pool", "group")  # settings that are a sieve's, not a recipe's
Record = dict[str, Any]
Records = dict[str, Record]


def head_start(examples: int) -> int:
    """Returns how many examples of a set the head is fitted to."""
    return min(HEAD, examples // 20)


@dataclass(frozen=True)
class Job:
    """One training. share: of the stream, for "random"."""

    set: str
    method: str
    seed: int
    rate: float
    ratio: float
    share: float | None = None

    @property
    def key(self) -> str:
        """Says which job it is: what it was told besides follows from that."""
        ratio = f"@{self.ratio:g}" if self.method.partition(":")[0] in PRICED else ""
        return f"{self.set}/{self.method}{ratio}/{self.rate:g}/{self.seed}"


def train(job: Job, inputs: Path, limit: int, small: bool) -> Record:
    """Returns the record of a job: what was trained and scored, and the quality on held-out texts.

    Runs in a process of its own.
    """
    import torch

    import finesieve
    from benchmarks.on_gpu.inputs import flipped, read
    from benchmarks.on_gpu.training import SMALL_WORDS, Loop, encoder, minilm, quality, trained
    from finesieve.methods.registry import named

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, _, noise = job.set.partition("+flip")
    texts, evaluated, classes = read(inputs, name)
    texts = texts.some(limit)
    if noise:
        texts = flipped(texts, float(noise) / 100, classes)
    if small:
        texts, evaluated = texts.modulo(SMALL_WORDS), evaluated.some(100).modulo(SMALL_WORDS)
    kind, _, given = job.method.partition(":")
    settings: dict[str, Any] = {
        k: float(v) for k, v in (x.split("=") for x in given.split(",") if x)
    }
    # As it is by default where launches bind, and as compared with the others where they do not.
    options = {"batch_size": 32, "group": 4 if job.ratio < 0.2 else 16}
    options |= {k: int(settings.pop(k)) for k in OPTIONS if k in settings}
    methods = {
        "plain": lambda: None,
        "full": finesieve.Full,
        "ours": lambda: finesieve.Adaptive(cost_ratio=job.ratio, **settings),
        "random": lambda: finesieve.RandomSubset(job.share or 1.0),
        "paper": lambda: named("paper"),
    }
    method: Any = methods[kind]()
    model = encoder("2x32", classes, job.seed) if small else minilm(inputs, classes, job.seed)
    half = device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    loop = Loop(model, device, "bf16" if half else "fp32", rate=job.rate)
    more: dict[str, Any] = {}
    if method is not None:
        more = {"head_start": head_start(len(texts)), "options": options}
    told = trained(loop, texts, 32, job.seed, method, **more)
    told["cost"] = 1.0
    if method is not None:
        told["cost"] = (told["trained"] + job.ratio * told["scored"]) / len(texts)
    return {
        "key": job.key,
        **asdict(job),
        "examples": len(texts),
        **told,
        **quality(loop, evaluated, classes),
    }


def best_rate(records: Records, method: str, ratio: float, seeds: int) -> float | None:
    """Returns the rate of least mean held-out loss over the tuning sets and their seeds.

    None before all are there. "plain", "full" and "paper" are the same for all ratios.
    """
    means = {}
    for rate in RATES:
        losses = [
            record["loss"]
            for record in records.values()
            if (record["method"], record["rate"]) == (method, rate)
            and record["set"] in TUNING
            and record["seed"] < seeds
            and (record["ratio"] == ratio or method not in PRICED)
        ]
        if len(losses) < len(TUNING) * seeds:
            return None
        means[rate] = statistics.mean(losses)
    return min(means, key=lambda rate: means[rate])


class Suite:
    """All jobs in their order, some of which wait for others.

    records: those that are there, by key.
    """

    def __init__(self, args: argparse.Namespace, records: Records) -> None:
        self.args, self.records = args, records

    def jobs(self) -> Iterator[Job]:
        """Yields the jobs that are not done and could be run now; those that others wait for, and
        the first seed of all, come first."""
        for seed in range(0 if self.args.rate else self.args.tuning_seeds):
            for method, ratio in self.methods():
                for name, rate in product(TUNING, RATES):
                    yield from self.job(name, method, seed, rate, ratio, rate)
        for seed in range(self.args.seeds):
            for method, ratio in self.methods():
                rate, ours = self.tuned(method, ratio), self.tuned("ours", ratio)
                if rate is not None and (ours is not None or method != "random"):
                    for name in self.args.sets:
                        yield from self.job(name, method, seed, rate, ratio, ours)

        for seed in range(self.args.seeds if self.args.settings else 0):
            for ratio, name in product(self.args.ratios, self.args.development):
                rate = self.tuned("ours", ratio)
                for settings in self.args.settings if rate is not None else ():
                    method = f"ours:{settings}" if settings else "ours"
                    yield from self.job(name, method, seed, rate or 0.0, ratio, rate)
                if rate is not None:
                    yield from self.job(name, "random", seed, rate, ratio, rate)

    def methods(self) -> Iterator[tuple[str, float]]:
        """Yields the methods, those that are priced with every ratio."""
        for method in self.args.methods:
            for ratio in self.args.ratios if method in PRICED else self.args.ratios[:1]:
                yield method, ratio

    def tuned(self, method: str, ratio: float) -> float | None:
        """Returns the rate of a method, None as long as its tuning is under way."""
        if self.args.rate is not None:
            return float(self.args.rate)
        return best_rate(self.records, method, ratio, self.args.tuning_seeds)

    def job(
        self, name: str, method: str, seed: int, rate: float, ratio: float, ours: float | None
    ) -> Iterator[Job]:
        """Yields the job unless it is done, or has to wait for the cost of another.

        ours: the rate of "ours", whose cost "random" gets.
        """
        job = Job(name, method, seed, rate, ratio)
        if method == "random" and ours is not None:
            found = self.records.get(Job(name, "ours", seed, ours, ratio).key)
            if found is None:
                return
            head = head_start(found["examples"]) * ratio / found["examples"]
            job = replace(job, share=min(1.0, found["cost"] - head))
        if job.key not in self.records:
            yield job


def run(args: argparse.Namespace) -> None:
    """Runs as many jobs as fit into the minutes, in several processes."""
    end = time.monotonic() + 60 * args.minutes
    suite = Suite(args, read_records(args.output))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    failed: set[str] = set()
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with (
        args.output.open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(args.processes, context) as pool,
    ):
        at_work: dict[Future[Record], Job] = {}
        while True:
            if time.monotonic() < end:
                busy = {job.key for job in at_work.values()} | failed
                free = (job for job in suite.jobs() if job.key not in busy)
                for job in islice(free, args.processes - len(at_work)):
                    at_work[pool.submit(train, job, args.inputs, args.limit, args.small)] = job
            if not at_work:
                break
            for one in wait(at_work, return_when=FIRST_COMPLETED).done:
                job = at_work.pop(one)
                try:
                    record = suite.records[job.key] = one.result()
                except Exception:  # one job that fails does not take the others along
                    failed.add(job.key)
                    print(f"{job.key} failed:\n{traceback.format_exc()}", flush=True)
                    continue
                file.write(json.dumps(record) + "\n")
                file.flush()
    left = sum(1 for _ in suite.jobs())
    print(f"{len(suite.records)} records; {left} jobs are left that could be run now.")


def read_records(file: Path) -> Records:
    """Returns the records of a file by key; of none where there is no file."""
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {record["key"]: record for record in map(json.loads, lines)}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="make the inputs, no more")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--inputs", type=Path, metavar="FOLDER", help="what --prepare has made")
    parser.add_argument("--output", type=Path, default=Path("out/gpu-suite.jsonl"))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--sets", nargs="*", default=list(CLAIM))
    parser.add_argument("--rate", type=float, help="the learning rate of all, tuned for none")
    parser.add_argument("--development", nargs="*", default=list(DEVELOPMENT))
    parser.add_argument(
        "--settings", nargs="*", default=[],
        help="of ours, to be compared on the development sets: least=0.1,pool=512 or ''",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.05, 0.3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=20_000, help="examples of a set")
    parser.add_argument("--small", action="store_true", help="a tiny model: figures mean little")
    args = parser.parse_args()
    if args.prepare:
        from benchmarks.on_gpu.inputs import SUITE, prepare

        prepare(args.prepare, args.data_dir, SUITE)
        return
    if args.inputs is None or not list(args.inputs.glob("*.npz")):
        parser.error(f"--inputs is {args.inputs}; expected the folder that --prepare has made")
    run(args)


if __name__ == "__main__":
    main()
