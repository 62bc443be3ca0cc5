"""What `finesieve inspect` finds, takes and costs as a whole, beside insight.py.

python benchmarks/insight_runs.py --data-dir DATA --cache FOLDER --output results/insight [PART ...]
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
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:  # from a checkout that was not installed, too
    sys.path.insert(0, str(ROOT))

from benchmarks.insight import Arrays, flipped, main, ours, ranked, read  # noqa: E402
from finesieve.cli.main import main as run_command  # noqa: E402
from finesieve.insight.labels import judge  # noqa: E402

FINESIEVE = "import sys; from finesieve.cli.main import main; sys.exit(main(sys.argv[1:]))"
TRAINED = (
    ("trec6", "similar", 0.2),  # how much of the stream is looked at again was chosen on these
    ("snips", "uniform", 0.1),
    ("emotion", "similar", 0.1),
    ("hwu64", "similar", 0.1),
    ("subj", "uniform", 0.1),
    ("clickbait", "none", 0.0),
)
ROWS = 4_000  # of each set
COST = (("snips", ROWS), ("snips", 13_084))  # the second one is all of it


def trained(args: argparse.Namespace) -> list[Arrays]:
    """The look after an epoch of training against the frozen model's, and what the losses of the
    training pass tell alone."""
    import pyarrow.parquet as pq

    out = []
    for name, kind, share in TRAINED:
        data = read(args, name)
        x, y, texts = data["x"][:ROWS], data["y"][:ROWS], data["texts"][:ROWS]
        given = y if kind == "none" else flipped(y, ours(x, y, texts, 0)[0], share, kind, 0)
        bad = given != y
        _, frozen, seconds = ours(x, given, texts, 0)
        with tempfile.TemporaryDirectory() as folder:
            file, to = Path(folder) / "data.jsonl", Path(folder) / "out"
            write(file, texts, given)
            start = time.process_time()
            command = ["inspect", str(file), "--output", str(to), "--quiet", "--threads", "1"]
            assert run_command(command) == 0
            whole = time.process_time() - start
            found = pq.read_table(to / "examples.parquet").to_pydict()
            spent = json.loads((to / "run" / "summary.json").read_text())["cpu_seconds"]
            look = judge(np.load(to / "pred_probs.npy"), given)
        first = np.array(found["first_loss"], dtype=float)
        known = np.isfinite(first)
        record = {
            "set": name,
            "kind": kind,
            "share": share,
            "rows": len(y),
            "wrong": int(bad.sum()),
            "estimate": [look.wrong.value, look.wrong.low, look.wrong.high],
            "frozen estimate": [frozen.wrong.value, frozen.wrong.low, frozen.wrong.high],
            "seconds": {
                "frozen": float(data["seconds"]) * len(y) / len(data["y"]) + seconds,
                "trained": whole,
                "of it training": spent,
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
    return out


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


PARTS = {"trained": trained, "cost": cost, "memory": memory, "large": large}

if __name__ == "__main__":
    main(PARTS, "insight_runs.py")
