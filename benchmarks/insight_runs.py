"""What `finesieve inspect` finds, takes and costs as a whole, beside insight.py.

python benchmarks/insight_runs.py --data-dir DATA --cache FOLDER --output results/insight [PART ...]

The part `folds` needs cleanlab and scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:  # from a checkout that was not installed, too
    sys.path.insert(0, str(ROOT))

from benchmarks.insight import Arrays, flipped, main, ours, ranked, read  # noqa: E402
from finesieve.cli.config import Config, config_of  # noqa: E402
from finesieve.cli.data.table import Table, load  # noqa: E402
from finesieve.cli.inspecting.look import LENGTH, inspect_source  # noqa: E402
from finesieve.cli.options import parser  # noqa: E402
from finesieve.cli.tasks.targets import Classes  # noqa: E402
from finesieve.cli.training.batches import Examples, by_length  # noqa: E402
from finesieve.cli.training.models import load_tokenizer  # noqa: E402
from finesieve.cli.training.prepare import Prepared  # noqa: E402
from finesieve.cli.training.progress import Live  # noqa: E402
from finesieve.cli.training.train import Run  # noqa: E402
from finesieve.insight.embed import fast  # noqa: E402
from finesieve.insight.insights import Insights  # noqa: E402
from finesieve.insight.labels import judge  # noqa: E402

FINESIEVE = "import sys; from finesieve.cli.main import main; sys.exit(main(sys.argv[1:]))"
ROWS = 4_000  # of each set
TRAINED = (
    ("trec6", "similar", 0.2, ROWS),  # how much is looked at again was chosen on these
    ("snips", "uniform", 0.1, ROWS),
    ("emotion", "similar", 0.1, ROWS),
    ("hwu64", "similar", 0.1, ROWS),
    ("subj", "uniform", 0.1, ROWS),
    ("clickbait", "none", 0.0, ROWS),
    ("snips", "uniform", 0.1, 13_084),  # all of it
)
FOLDS = (
    ("hwu64", "similar", 0.1, ROWS),
    ("subj", "uniform", 0.1, ROWS),
    ("snips", "uniform", 0.1, ROWS),
)
COST = (("snips", ROWS), ("snips", 13_084))  # the second one is all of it


@dataclass
class Case:
    """A set with labels flipped: its features, labels before and after, texts and which differ."""

    data: Arrays
    x: Any
    y: Any
    given: Any
    texts: list[str]

    @property
    def bad(self) -> Any:
        return self.given != self.y


def case(args: argparse.Namespace, name: str, kind: str, share: float, many: int) -> Case:
    """The first rows of a set, with this share of their labels flipped."""
    data = read(args, name)
    x, y, texts = data["x"][:many], data["y"][:many], data["texts"][:many]
    given = y if kind == "none" else flipped(y, ours(x, y, texts, 0)[0], share, kind, 0)
    return Case(data, x, y, given, texts)


def looked(file: Path, to: Path, *more: str) -> tuple[Insights, Arrays, dict[str, float]]:
    """Looks at a file after an epoch of training: what is found, its examples, its seconds."""
    import pyarrow.parquet as pq

    start = time.process_time()
    look = inspect_source(parser().parse_args(["inspect", str(file), *options(to), *more]))
    look.export(str(to))
    whole = time.process_time() - start
    found = pq.read_table(to / "examples.parquet").to_pydict()
    spent = json.loads((to / "run" / "summary.json").read_text())["cpu_seconds"]
    return look, found, {"trained": whole, "of it training": spent}


def options(to: Path) -> list[str]:
    return ["--output", str(to), "--quiet", "--threads", "1"]


def before(path: Path) -> list[Arrays]:
    """The records that are there already."""
    found: list[Arrays] = []
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["records"]
    return found


def trained(args: argparse.Namespace) -> list[Arrays]:
    """The look after an epoch of training against the frozen model's, and what the losses of the
    training pass tell alone."""
    out = before(args.output / "trained.json")  # what is there is not made again
    there = {(record["set"], record["rows"]) for record in out}
    for name, kind, share, many in TRAINED:
        if (name, many) in there:
            continue
        flips = case(args, name, kind, share, many)
        given, bad, data = flips.given, flips.bad, flips.data
        _, frozen, seconds = ours(flips.x, given, flips.texts, 0)
        with tempfile.TemporaryDirectory() as folder:
            file, to = Path(folder) / "data.jsonl", Path(folder) / "out"
            write(file, flips.texts, given)
            look, found, took = looked(file, to)
        assert look.judged is not None
        wrong = look.judged.wrong
        first = np.array(found["first_loss"], dtype=float)
        known = np.isfinite(first)
        record = {
            "set": name,
            "kind": kind,
            "share": share,
            "rows": len(given),
            "wrong": int(bad.sum()),
            "estimate": [wrong.value, wrong.low, wrong.high],
            "how": look.how,
            "frozen estimate": [frozen.wrong.value, frozen.wrong.low, frozen.wrong.high],
            "seconds": {
                "frozen": float(data["seconds"]) * len(given) / len(data["y"]) + seconds,
                **took,
            },
        }
        if bad.any():
            record |= {
                "frozen": ranked(frozen.quality, bad),
                "trained": ranked(np.array(found["quality"]), bad),
                "training losses": ranked(-first[known], bad[known]),
            }
        out.append(record)
        print(json.dumps(record), flush=True)
    place = {(name, many): i for i, (name, _, _, many) in enumerate(TRAINED)}
    return sorted(out, key=lambda record: place[record["set"], record["rows"]])


def folds(args: argparse.Namespace) -> list[Arrays]:
    """The look after an epoch of training against cleanlab on five fine-tunings of the same model:
    each is plain training for an epoch on four fifths of the rows, and predicts the last fifth.

    All are made here, one after the other, so that their seconds can be compared.
    """
    from cleanlab.rank import get_label_quality_scores

    there = {record["set"]: record for record in before(args.output / "folds.json")}
    out = []  # what is there is not made again
    for name, kind, share, many in FOLDS:
        flips = case(args, name, kind, share, many)
        given, bad = flips.given, flips.bad
        made = {"set": name, "kind": kind, "share": share, "rows": many, "wrong": int(bad.sum())}
        record = there.get(name, {**made, "seconds": {}})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "data.jsonl"
            write(file, flips.texts, given)
            for key, more in (("trained", ()), ("thorough", ("--thorough",))):
                if key not in record:
                    _, found, took = looked(file, Path(folder) / key, *more)
                    record[key] = ranked(np.array(found["quality"]), bad)
                    record["seconds"][key] = took["trained"]
            if "folds, cleanlab" not in record:
                start = time.process_time()
                p, training = cross_validated(file, given, Path(folder) / "none")
                scores = get_label_quality_scores(given, p)
                whole = time.process_time() - start
                record["seconds"] |= {"folds": whole, "of them training": training}
                record["accuracy of folds"] = float((p.argmax(axis=1) == flips.y).mean())
                record["folds, cleanlab"] = ranked(scores, bad)
                record["folds, our ranking"] = ranked(judge(p, given, 0).quality, bad)
        out.append(record)
        print(json.dumps(record), flush=True)
    return out


def cross_validated(file: Path, given: Any, to: Path) -> tuple[Any, float]:
    """Probabilities float32[n, classes] of five fine-tunings, each of the rows that it has not
    seen, and the processor seconds of their training loops."""
    from sklearn.model_selection import StratifiedKFold

    told = parser().parse_args(["inspect", str(file), *options(to)])
    told.max_length = LENGTH
    config = replace(config_of(told), method="full")
    table = load(str(file))
    names = sorted(set(table.labels))
    p, training = np.zeros((len(given), len(names)), dtype=np.float32), 0.0
    for inside, outside in StratifiedKFold(5, shuffle=True, random_state=0).split(given, given):
        p[outside], spent = tuned(config, table, names, inside, outside)
        training += spent
    return p, training


def tuned(
    config: Config, table: Table, names: list[Any], inside: Any, outside: Any
) -> tuple[Any, float]:
    """Fine-tunes the model on some rows and predicts others.

    Args:
        config: of the training.
        table: all rows.
        names: of the classes.
        inside: int64[m], places of the rows to train on.
        outside: int64[n], places of the rows to predict.

    Returns:
        Probabilities float32[n, classes] and the processor seconds of the training loop.
    """
    number, tokenizer = Classes(names), load_tokenizer(config.model)
    part, rest = (
        Examples(table.take(rows.tolist()), number, tokenizer, config.max_length)
        for rows in (inside, outside)
    )
    data = Prepared(tokenizer, names, number, part, inside, {}, [], "", {})
    run = Run(config, data, None, Live("", quiet=True))
    torch.manual_seed(config.seed + 1)
    run.train()
    model = run.model.eval()
    p = np.zeros((len(outside), len(names)), dtype=np.float32)
    with torch.inference_mode(), fast(run.device):  # as the look runs rows through the model
        for index, batch in by_length(rest, 128):
            del batch["labels"]
            p[index] = model(**batch).logits.float().softmax(dim=1).numpy()
    return p, run.cpu


def write(file: Path, texts: list[str], given: Any) -> None:
    """A file of JSON lines."""
    rows = zip(texts, given.tolist(), strict=True)
    lines = [json.dumps({"text": text, "label": f"c{label:02d}"}) + "\n" for text, label in rows]
    file.write_text("".join(lines), encoding="utf-8")


def seconds_of(*command: str) -> float:
    """Processor seconds of `finesieve` with these arguments, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", FINESIEVE, *command],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost(args: argparse.Namespace) -> list[Arrays]:
    """Training without `inspect`, filtered and in full, against `inspect`; in turns.

    How much is trained on hangs on the clock, so two runs differ by more than the look costs. What
    it costs is the difference of what they take beside their training loops.
    """
    out = []
    for name, many in COST:
        data = read(args, name)
        texts, y = data["texts"][:many], data["y"][:many]
        seconds: dict[str, list[float]] = {}
        loops: dict[str, list[float]] = {}
        for round_ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                file, few = Path(folder) / "data.jsonl", Path(folder) / "few.jsonl"
                write(file, texts, y)
                write(few, texts[:64], y[:64])  # `train` holds out a tenth of the data else
                base = ["--threads", "1", "--quiet"]
                train = ["train", "--train", str(file), "--eval", str(few), *base]
                look = ["inspect", str(file), *base]
                runs = {
                    "train": train,
                    "inspect": look,
                    "inspect --thorough": [*look, "--thorough"],
                    "train in full": [*train, "--method", "full"],
                    "inspect without training": [*look, "--no-train"],
                }
                for key, command in runs.items():
                    once = key not in ("train", "inspect")  # what is not compared closely
                    if once and (round_ or (many > ROWS and key != "train in full")):
                        continue
                    to = Path(folder) / key.replace(" ", "-")
                    seconds.setdefault(key, []).append(seconds_of(*command, "--output", str(to)))
                    for summary in (*to.glob("summary.json"), *to.glob("run/summary.json")):
                        spent = json.loads(summary.read_text())["cpu_seconds"]
                        loops.setdefault(key, []).append(spent)
        out.append(
            {
                "set": name,
                "rows": len(texts),
                "words": float(np.mean([len(t.split()) for t in texts])),
                "seconds": seconds,
                "of them in the loop": loops,
            }
        )
        print(json.dumps(out[-1]), flush=True)
    return out


def memory(args: argparse.Namespace) -> list[Arrays]:
    """Peak memory and seconds of `inspect --model none` on files of made-up rows."""
    return made_up(
        args, (("jsonl", 200_000), ("jsonl", 1_000_000), ("csv", 100_000), ("csv", 400_000))
    )


def large(args: argparse.Namespace) -> list[Arrays]:
    """The same of ten million rows."""
    return made_up(args, (("jsonl", 10_000_000),))


def made_up(args: argparse.Namespace, files: Sequence[tuple[str, int]]) -> list[Arrays]:
    """Looks at files, of which each row is two random headlines or questions with a random label.

    Args:
        args: of the command.
        files: kinds and numbers of rows.
    """
    texts = read(args, "clickbait")["texts"] + read(args, "snips")["texts"]
    out = []
    for kind, rows in files:
        dice = np.random.default_rng(0)
        pairs, labels = dice.integers(0, len(texts), (rows, 2)), dice.integers(0, 4, rows)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"data.{kind}"
            with file.open("w", encoding="utf-8", newline="") as target:
                writer = csv.writer(target)
                if kind == "csv":
                    writer.writerow(["text", "label"])
                for (i, j), y in zip(pairs, labels, strict=True):
                    text, label = f"{texts[i]} {texts[j]}", f"c{y:02d}"
                    if kind == "csv":
                        writer.writerow([text, label])
                    else:
                        target.write(json.dumps({"text": text, "label": label}) + "\n")
            code = (
                "import sys, time; from finesieve.cli.main import main; "
                "assert main(sys.argv[1:]) == 0; "
                "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]; "
                "print(time.process_time(), peak)"  # getrusage would begin with this process's own
            )
            command = ["inspect", str(file), "--model", "none", "--output", f"{folder}/out"]
            done = subprocess.run(
                [sys.executable, "-c", code, *command, "--quiet"],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
            )
            seconds, peak = done.stdout.split()[-2:]
            out.append(
                {
                    "kind": kind,
                    "rows": rows,
                    "file_bytes": file.stat().st_size,
                    "seconds": float(seconds),
                    "peak_memory_mb": int(peak) / 1024,
                }
            )
        print(json.dumps(out[-1]), flush=True)
    return out


PARTS = {"trained": trained, "folds": folds, "cost": cost, "memory": memory, "large": large}

if __name__ == "__main__":
    main(PARTS, "insight_runs.py")
