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
from dataclasses import asdict, dataclass
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
RATES = (1e-4, 2e-4, 4e-4)
# "plain" has no fitted head, all others have. "random" has the cost of "ours" at the same ratio.
METHODS = ("plain", "full", "ours", "random", "paper")
HEAD = 512  # examples of the head start, but a twentieth of the set at the most
Record = dict[str, Any]


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
        ratio = "" if self.method in ("plain", "full") else f"@{self.ratio:g}"
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
    methods = {
        "plain": lambda: None,
        "full": finesieve.Full,
        "ours": lambda: finesieve.Adaptive(cost_ratio=job.ratio),
        "random": lambda: finesieve.RandomSubset(job.share or 1.0),
        "paper": lambda: named("paper"),
    }
    method: Any = methods[job.method]()
    model = encoder("2x32", classes, job.seed) if small else minilm(inputs, classes, job.seed)
    loop = Loop(model, device, "bf16" if device.type == "cuda" else "fp32", rate=job.rate)
    more: dict[str, Any] = {}
    if method is not None:
        head_start = min(HEAD, len(texts) // 20)
        more = {"head_start": head_start, "options": {"batch_size": 32}}
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


def best_rate(records: dict[str, Record], method: str, ratio: float, sets: Any) -> float | None:
    """Returns the rate of least held-out loss over the tuning sets; None if no record is there.

    "random" and "paper" are tuned at the ratio of their own; "plain" and "full" have none.
    """
    losses: dict[float, list[float]] = {}
    for record in records.values():
        same = record["ratio"] == ratio or method in ("plain", "full")
        if record["set"] in sets and record["method"] == method and same:
            losses.setdefault(record["rate"], []).append(record["loss"])
    most = max(map(len, losses.values()), default=0)
    whole = {rate: statistics.mean(x) for rate, x in losses.items() if len(x) == most}
    return min(whole, key=lambda rate: whole[rate]) if whole else None


class Suite:
    """All jobs in their order, some of which wait for others.

    records: those that are there, by key.
    """

    def __init__(self, args: argparse.Namespace, records: dict[str, Record]) -> None:
        self.args, self.records = args, records
        self.tuning = [x for x in TUNING if x in args.sets]
        self.claim = [x for x in args.sets if x not in TUNING]

    def jobs(self, tuning: bool) -> Iterator[Job]:
        """Yields the jobs that are not done and could be run now: the first seed of all first."""
        sets = self.tuning if tuning else self.claim
        for seed in range(self.args.tuning_seeds if tuning else self.args.seeds):
            for method in self.args.methods:
                for ratio in self.args.ratios if method in ("ours", "random") else [0.05]:
                    for name in sets:
                        for rate in self.rates(method, ratio, tuning):
                            job = self.job(name, method, seed, rate, ratio, tuning)
                            if job is not None and job.key not in self.records:
                                yield job

    def rates(self, method: str, ratio: float, tuning: bool) -> tuple[float, ...]:
        """Returns the rates that a method is run with."""
        if tuning:
            return RATES
        rate = best_rate(self.records, method, ratio, TUNING)
        return () if rate is None else (rate,)

    def job(
        self, name: str, method: str, seed: int, rate: float, ratio: float, tuning: bool
    ) -> Job | None:
        """Returns the job, or None where it has to wait for the cost of another."""
        if method != "random":
            return Job(name, method, seed, rate, ratio)
        own = best_rate(self.records, "ours", ratio, TUNING) if not tuning else rate
        ours = self.records.get(Job(name, "ours", seed, own or rate, ratio).key)
        if ours is None:
            return None
        head = min(HEAD, ours["examples"] // 20) * ratio / ours["examples"]
        return Job(name, method, seed, rate, ratio, min(1.0, ours["cost"] - head))


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
        for tuning in (True, False):
            while time.monotonic() < end:
                busy = {job.key for job in at_work.values()} | failed
                waiting = (job for job in suite.jobs(tuning) if job.key not in busy)
                for job in waiting:
                    if len(at_work) >= args.processes:
                        break
                    at_work[pool.submit(train, job, args.inputs, args.limit, args.small)] = job
                if not at_work:
                    break
                done, _ = wait(at_work, return_when=FIRST_COMPLETED)
                for one in done:
                    job = at_work.pop(one)
                    try:
                        record = one.result()
                    except Exception:  # one job that fails does not take the others along
                        failed.add(job.key)
                        print(f"{job.key} failed:\n{traceback.format_exc()}", flush=True)
                        continue
                    suite.records[job.key] = record
                    file.write(json.dumps(record) + "\n")
                    file.flush()
        for one, job in at_work.items():  # what has begun is finished
            try:
                file.write(json.dumps(one.result()) + "\n")
            except Exception:
                print(f"{job.key} failed:\n{traceback.format_exc()}", flush=True)
    left = sum(1 for tuning in (True, False) for _ in Suite(args, suite.records).jobs(tuning))
    print(f"{len(suite.records)} records; {left} jobs are left that could be run now.")


def read_records(file: Path) -> dict[str, Record]:
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
    parser.add_argument("--sets", nargs="*", default=[*TUNING, *CLAIM])
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
