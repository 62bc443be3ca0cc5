"""Several methods on the same data and seeds, and a random subset at equal total time."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

from finesieve import methods
from finesieve.cli.comparing.tables import RIVAL, mean, titled
from finesieve.cli.config import Config
from finesieve.cli.training.prepare import Prepared, prepare
from finesieve.cli.training.runfiles import SUMMARY
from finesieve.cli.training.train import train
from finesieve.errors import ConfigError

TABLE = "compare.md"
EQUAL = RIVAL
CLOSE = 0.05  # total times may differ by this share and still be called equal
Summary = dict[str, Any]


def compare(
    config: Config,
    names: list[str],
    seeds: int,
    settings: dict[str, Any],
    output: str | None,
    equal_time: bool = True,
    quiet: bool = False,
    tuned: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Summary]:
    """Run every method for every seed, one after another in this process; print one table.

    settings: of the method `finesieve`; other methods run with their defaults.
    equal_time: adds, for each run of finesieve, a random subset of such a share that its total
    seconds come out the same, its learning rate decayed in full over what it sees.
    tuned: fields of the configuration by method, e.g. {"full": {"lr": 1e-4}}.
    """
    per_method = tuned or {}
    if not names:
        raise ConfigError("--methods names none; expected e.g. full,finesieve")
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; expected 1 or more")
    for name in names:  # at the door, before anything is run
        methods.registry.build(name, 0, **(settings if name == "finesieve" else {}))
    if output is not None and Path(output).is_dir() and any(Path(output).iterdir()):
        raise ConfigError(f"output folder {output} is not empty: choose another, or remove it")
    data = prepare(config)
    for note in data.notes:
        print(note, file=sys.stderr)
    results: list[Summary] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(output) if output is not None else Path(scratch)
        for seed in range(seeds):
            for name in names:
                given = settings if name == "finesieve" else {}
                own = per_method.get(name, {})
                run = replace(config, method=name, settings=given, seed=seed, **own)
                results.append(_run(run, root, name, data, quiet))
            ours = [r for r in results if r["method"] == "finesieve" and r["seed"] == seed]
            if equal_time and ours:
                own = per_method.get("random", {})
                rival = replace(config, seed=seed, **own)
                results.append(_equal_time(rival, ours[0], results, root, data, quiet))
        text = table(results, config)
        print(text)
        if output is not None:
            (root / TABLE).write_text(text + "\n", encoding="utf-8")
            (root / "compare.json").write_text(
                json.dumps(results, indent=1) + "\n", encoding="utf-8"
            )
            print(f"\nfiles: {os.path.join(output, '')} (this table: {TABLE}; each run: model/, "
                  f"{SUMMARY}, run.jsonl, examples.parquet)")
    return results


def _run(config: Config, root: Path, name: str, data: Prepared, quiet: bool) -> Summary:
    folder = root / f"{name.replace(' ', '-')}-seed{config.seed}"
    summary = train(config, str(folder), data=data, quiet=quiet, label=name)
    return {**summary, "name": name}


def seconds_per_example(results: list[Summary], seed: int) -> float:
    """Training seconds an example, from this seed's run that trained on most of them."""
    runs = [r for r in results if r["seed"] == seed and r["examples"]["trained"]]
    best = max(runs, key=lambda r: r["examples"]["trained"])
    return float(best["seconds"]["train"] / best["examples"]["trained"])


def _equal_time(
    config: Config, ours: Summary, results: list[Summary], root: Path, data: Prepared, quiet: bool
) -> Summary:
    """Random, its share set so that share x drawn x seconds an example is our total time, less
    what the head start takes, which random has, too."""
    each = seconds_per_example(results, config.seed)
    seconds = ours["seconds"]["total"] - (ours["head_start"] or {}).get("seconds", 0.0)
    share = min(1.0, max(0.001, seconds / (each * ours["examples"]["drawn"])))
    settings = {"share": round(share, 4)}
    return _run(
        replace(config, method="random", settings=settings), root, EQUAL, data, quiet
    )


# ---- the table


def _spread(runs: list[Summary], *path: str) -> str:
    """The standard deviation over seeds, " ± s", where there are several."""
    if len(runs) < 2:
        return ""
    return f" ± {stdev(r['eval'][path[-1]] for r in runs):.3f}"


def table(results: list[Summary], config: Config) -> str:
    """Markdown: one row a method, means over seeds."""
    names = list(dict.fromkeys(r["name"] for r in results))
    groups = {name: [r for r in results if r["name"] == name] for name in names}
    full = groups.get("full")
    head = ["method", "accuracy", "held-out loss", "seconds", "speed-up", "trained", "scored"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, runs in groups.items():
        drawn = mean(runs, "examples", "drawn")
        seconds = mean(runs, "seconds", "total")
        speed = f"{mean(full, 'seconds', 'total') / seconds:.1f}x" if full else "-"
        lines.append(
            "| " + " | ".join([
                titled(name, runs),
                f"{mean(runs, 'eval', 'accuracy'):.3f}{_spread(runs, 'accuracy')}",
                f"{mean(runs, 'eval', 'loss'):.3f}{_spread(runs, 'loss')}",
                f"{seconds:.1f}",
                speed,
                f"{mean(runs, 'examples', 'trained') / drawn:.0%}",
                f"{mean(runs, 'examples', 'scored') / drawn:.0%}",
            ]) + " |"
        )
    n = results[0]["eval"]["n"]
    seeds = len({r["seed"] for r in results})
    size = int(results[0]["examples"]["drawn"]) // config.epochs
    notes = [
        "",
        f"{config.train}: {size} examples x {config.epochs} epoch(s), evaluated on {n}; "
        f"{seeds} seed(s); seconds = deciding + scoring + training + waiting for data.",
    ]
    return "\n".join(lines + notes + verdict(groups))


def verdict(groups: dict[str, list[Summary]]) -> list[str]:
    """What the table says of finesieve against random at equal time; it may be "no gain"."""
    ours, rival = groups.get("finesieve"), groups.get(EQUAL)
    if not ours or not rival:
        return []
    a, b = mean(ours, "eval", "loss"), mean(rival, "eval", "loss")
    times = mean(rival, "seconds", "total") / mean(ours, "seconds", "total")
    lines = []
    if all(len(r["stages"]) == 1 for r in ours):
        lines.append("The gates stayed open: skipping would not have paid on this stream.")
    if a < b:
        lines.append(f"Held-out loss: finesieve {a:.3f}, random {b:.3f}: better.")
    else:
        lines.append(f"Held-out loss: finesieve {a:.3f}, random {b:.3f}: no gain here.")
    if abs(times - 1) > CLOSE:
        lines.append(
            f"Caution: random took {times:.2f} times finesieve's time, so the comparison is not "
            "at equal time (a noisy machine?)."
        )
    if len(ours) < 3:
        lines.append("Fewer than 3 seeds: an indication, no proof.")
    return lines

