"""Put the tables of the committed results into README.md and the docs.

python benchmarks/write_tables.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from finesieve.cli.comparing.groups import RIVAL, grouped, mean
from finesieve.cli.comparing.suite import read_suite
from finesieve.cli.comparing.tables import HEADS, rows, table
from finesieve.cli.comparing.verdict import verdict
from finesieve.cli.results import Record, read_all

ROOT = Path(__file__).parent.parent
HEAD_START = "head-start"  # in its research record alone
DEMO = ("demo", "research/demo-batches-of-32")  # likewise
SUITES = (
    "sst2",
    "one-epoch",
    "wide",
    "three-epochs",
    "rivals",
    "frontier",
    "small-batches",
    "tricks",
    "tasks",
)
SHOWN = "one-epoch"  # on the page when-it-pays
README = ("snips", "banking77")  # in the README: two of its sets
SMALL = "small-batches"  # there, too
ABOUT_SMALL = (
    "**In batches of 8, version 0.1.0** (rate 1e-4, fp32, another machine, at most 10,000\n"
    "examples a set; one setting for all methods, by the tuning sets as good for full training\n"
    "as 32 with 2e-4, but dearer). A random subset in batches of 32 of the same time is as good\n"
    "here, or better, so choosing pays where batches must be small anyway\n"
    "([batch size](../research/batch-size.md)):"
)
WIDE = "wide"  # in words
ABOUT_WIDE = (
    "**On many sets, version 0.1.0** (without the fitted head; rate 2e-4, batches of 32, fp32, at\n"
    "most 6,000 examples, one seed each; all\n"
    "12 that we had with one label, up to 15 words on average and 4,000 examples or more, [set by\n"
    "set](../reference/benchmarks.md#wide)):"
)
BEGIN, END = "<!-- results: benchmarks/write_tables.py -->", "<!-- end of results -->"
METRICS = {
    "conll2003": "entity F1",
    "stsb": "Spearman's correlation",
    "goemotions": "micro F1",
    "race_middle": "accuracy",
    "webnlg": "next-token accuracy",
}  # of the suite tasks
TRICKS = (
    "trick",
    "seconds, full",
    "seconds, finesieve",
    "speed-up",
    "accuracy, full",
    "accuracy, finesieve",
    "loss, full",
    "loss, finesieve",
    f"loss, {RIVAL}",
    "scoring / training an example",
    "trained",
    "scored",
    f"finesieve against {RIVAL}",
)
ABOUT_TRICKS = (
    "One set of texts (snips), the same training but for the trick; loss and accuracy as without",
    "it, in full precision. The gain multiplies with a trick where the speed-up is that of",
    "`plain`. Batches pad as needed; those of `padded` are all 32 tokens wide. `freezing`: the",
    "embeddings and three of six layers. `workers` (two load), `stream` (an IterableDataset, so",
    "without batches by length), `sampler` (weighted, with replacement, likewise): 6,000 texts; in",
    "the last two survivors come by length, plain training's batches and random's do not.",
    "`compile`: 6,000 texts cut at 16 tokens; half of the seconds is Inductor's compiling, three",
    "graphs in each run (`compile_seconds` and `graphs_compiled` in the records). bf16 is what the",
    "suites sst2 and one-epoch above are in.",
)
MAIN = ("full", RIVAL, "finesieve")
README_NAMES = {
    "full without head start": "full training",
    "full": "full training, fitted head",
    RIVAL: "random subset, same seconds, fitted head",
    "finesieve": "finesieve",
}
BEFORE = (
    "Measured before attention and memory on CPUs ([CPU](../research/cpu.md)) and the prices of "
    "stages were as they are now: plain training was up to twice as slow, so these speed-ups are "
    "overstated."
)

PRICED = (
    "Measured before the prices of stages were as they are now ([prices](../research/prices.md))."
)
SIFTED = (
    "Measured with a random subset that the sieve took out of the stream (it is drawn beforehand "
    "now, and pays some percent less a token: [methods](methods.md#full-random)) and with prices "
    "over 2048 sizes at once ([prices](../research/prices.md#pool-by-pool))."
)


def records_of(suite: str) -> list[Record]:
    """A suite's committed records; a file that is not sound is an error here."""
    records, complaints = read_all(ROOT / "results" / suite)
    if complaints:
        raise SystemExit("\n".join(complaints))
    return records


def readme_table() -> str:
    """The methods on two sets, a row each: seconds, accuracy and loss; and the verdicts."""
    sets, groups = README, grouped(records_of(SHOWN))
    wanted = ("seconds", "accuracy", "held-out loss")
    lines = [
        "| | " + " | ".join(f"{name}: {head}" for name in sets for head in wanted) + " |",
        "|" + "---|" * (1 + len(sets) * len(wanted)),
    ]
    told = [
        dict(
            zip(groups[s], (dict(zip(HEADS, r, strict=True)) for r in rows(groups[s])), strict=True)
        )
        for s in sets
    ]
    for name, label in README_NAMES.items():
        cells = [method[name][head] for method in told for head in wanted]
        lines.append("| " + " | ".join((label, *cells)) + " |")
    verdicts = [cell for method in told for cell in ("", "", method["finesieve"][HEADS[-1]])]
    lines.append("| " + " | ".join(("loss, finesieve - random", *verdicts)) + " |")
    return "\n".join(lines)


def pays_tables() -> str:
    """The methods that matter most, a row a set; in words, on many sets; and in small batches."""
    from benchmarks import one_epoch_table

    small, wide, now = records_of(SMALL), records_of(WIDE), records_of(SHOWN)
    claim, ten = (read_suite(ROOT / "benchmarks" / f"{x}.toml").claim for x in (SMALL, SHOWN))
    return "\n\n".join(
        (
            one_epoch_table.section(now, ten),
            ABOUT_WIDE,
            verdict(wide),
            ABOUT_SMALL,
            table(_main(small), claim),
            verdict(small),
        )
    )


def _main(records: Sequence[Record]) -> list[Record]:
    return sorted((r for r in records if r["name"] in MAIN), key=lambda r: MAIN.index(r["name"]))


def tricks_table(records: list[Record], sets: Sequence[str]) -> str:
    """A row a trick: what it takes with and without the sieve, and what comes of it."""
    lines = ["| " + " | ".join(TRICKS) + " |", "|" + "---|" * len(TRICKS)]
    for name in sets:
        runs = grouped(records).get(name, {})
        told = {row[0]: dict(zip(HEADS, row, strict=True)) for row in rows(runs)}
        full, ours, rival = (
            told.get(method, dict.fromkeys(HEADS, "")) for method in ("full", "finesieve", RIVAL)
        )
        scored = [r for r in runs.get("finesieve", ()) if r["examples"]["scored"]]
        cost = [_each(r, "score", "scored") / _each(r, "train", "trained") for r in scored]
        row = (
            name,
            full["seconds"],
            ours["seconds"],
            ours["speed-up"],
            full["accuracy"],
            ours["accuracy"],
            full["held-out loss"],
            ours["held-out loss"],
            rival["held-out loss"],
            f"{fmean(cost):.2f}" if cost else "",
            ours["trained"],
            ours["scored"],
            rival[HEADS[-1]] or ours[HEADS[-1]],
        )
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def never_slower() -> list[str]:
    """A row a set: the sieve's seconds over those of a plain loop that took turns with it."""
    told = json.loads((ROOT / "results" / "never-slower.json").read_text(encoding="utf-8"))
    lines = [
        "## never-slower",
        "",
        f"Command: `{told['command']}`  ",
        f"Sets: `{told['suite']}`  ",
        f"Model {told['config']['model']}, {told['config']['precision']}, 1 epoch, "
        f"{told['threads']} thread; torch {told['torch']}",
        "",
        "Data of which nothing can be skipped. A plain loop and finesieve are trained in one",
        "process and take turns, step by step, so that both find the machine at the same pace.",
        "",
        "| set | examples | plain, seconds | finesieve, seconds | ratio by seed | deciding "
        "| trained | scored | weights at the end |",
        "|" + "---|" * 9,
    ]
    sets: dict[str, list[Any]] = {}
    for run in told["runs"]:
        sets.setdefault(run["set"], []).append(run)
    for name, runs in sets.items():
        drawn = sum(r["examples"]["drawn"] for r in runs)
        same = sum(r["same_weights"] for r in runs)
        lines.append(
            "| "
            + " | ".join(
                (
                    name,
                    str(drawn // len(runs)),
                    *(
                        f"{fmean(r[k]['seconds'] for r in runs):.1f}"
                        for k in ("plain", "finesieve")
                    ),
                    ", ".join(f"{r['ratio']:.3f}" for r in runs),
                    f"{max(r['deciding'] for r in runs):.1%}",
                    *(
                        f"{sum(r['examples'][k] for r in runs) / drawn:.0%}"
                        for k in ("trained", "scored")
                    ),
                    f"the same to the bit in {same} of {len(runs)}",
                )
            )
            + " |"
        )
    ratios = [r["ratio"] for r in told["runs"]]
    return [
        *lines,
        "",
        f"- finesieve takes {median(ratios):.3f} of plain training's time in the "
        f"median of {len(ratios)} runs, {max(ratios):.3f} at the most.",
    ]


def _precisions(records: Sequence[Record]) -> str:
    """fp32, or which sets had which."""
    found = {r["set"]: str(r["config"]["precision"]) for r in records}
    kinds = sorted({*found.values()})
    if len(kinds) == 1:
        return kinds[0]
    return ", ".join(f"{k} ({', '.join(s for s in found if found[s] == k)})" for k in kinds)


def _each(record: Record, on: str, count: str) -> float:
    """Seconds an example."""
    return float(record["seconds"][on] / record["examples"][count])


def tuning_table(records: list[Record]) -> list[str]:
    """Held-out loss of every method at every point of the grid."""
    lines = ["| set | method | point | held-out loss | seconds |", "|---|---|---|---|---|"]
    for name, methods in grouped(records, "tuning").items():
        for method, runs in methods.items():
            for r in sorted(runs, key=lambda r: str(r["point"])):
                point = ", ".join(f"{k} {v:g}" for k, v in r["point"].items())
                loss, seconds = mean([r], "eval", "loss"), mean([r], "seconds", "total")
                row = (name, method, point, f"{loss:.4f}", f"{seconds:.1f}")
                lines.append("| " + " | ".join(row) + " |")
    return lines if len(lines) > 2 else []


def benchmarks_page() -> str:
    """Everything: claim sets with all methods, the tuning, how it was run."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `python benchmarks/write_tables.py` from `results/`; nothing here is typed.",
        "One process a run, pinned to its own core; seconds are wall-clock and hold scoring,",
        "deciding, training and waiting for data, not the evaluation. Intervals (95 %) are",
        "over seeds and test examples, paired by seed.",
    ]
    for name in SUITES:
        suite, records = read_suite(ROOT / "benchmarks" / f"{name}.toml"), records_of(name)
        sound = [r for r in records if "failed" not in r]
        if not sound:
            continue
        first = sound[0]
        if name == "frontier":
            lines += ["", *never_slower()]
        lines += [
            "",
            f"## {suite.name}",
            "",
            f"Command: `{first['command']}`  ",
            f"Suite: `benchmarks/{name}.toml`  ",
            f"Model {first['config']['model']}, {_precisions(sound)}, "
            f"{first['config']['epochs']} epoch(s), {first['hardware']['threads']} thread; "
            f"torch {first['versions']['torch']}, "
            f"finesieve {first['versions']['finesieve']}  ",
            f"Tuning sets: {', '.join(suite.tuning) or 'none'}; "
            f"claim sets: {', '.join(suite.claim)}",
            "",
        ]
        ours = [r for r in sound if r["name"] == "finesieve"]
        before = {r["set"] for r in sound if "attention" not in r["config"]}
        priced = {r["set"] for r in ours if "cost_ratio_measured" in r} - before
        sifted = {r["set"] for r in sound if r["name"] == RIVAL and "subset" not in r}
        for note, sets in ((BEFORE, before), (PRICED, priced), (SIFTED, sifted)):
            if sets:
                if sets != {r["set"] for r in sound}:
                    note += f" That is of these sets: {', '.join(sorted(sets))}."
                lines += [note, ""]
        rows_ = table(records, suite.claim)
        if name == "tasks":
            metrics = ", ".join(f"{METRICS[s]} ({s})" for s in suite.claim)
            lines += [f"Metric: {metrics}.", ""]
            rows_ = rows_.replace("| accuracy |", "| metric |", 1)
        if name == "tricks":
            lines += [*ABOUT_TRICKS, ""]
            rows_ = tricks_table(records, suite.claim)
        lines += [rows_, ""]
        others = [m for m in suite.methods if m not in ("full", RIVAL)]
        if name == "tricks" or RIVAL not in suite.methods:  # a verdict a row, or none
            others = []
        judged = [r for r in records if name != "tasks" or r["name"] != "full"]  # own metrics
        lines += ["- " + verdict(judged, ours=m).replace("\n\n", "\n  ") for m in others]
        tuned = tuning_table(records)
        if tuned:
            lines += ["", "Tuning:", "", *tuned]
    return "\n".join(lines) + "\n"


def written(text: str, content: str) -> str:
    """The page with the content between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def pages() -> dict[Path, str]:
    """Every page that has results in it, as it must be."""
    from benchmarks import gpu_tables, insight_tables

    docs = ROOT / "docs"
    tables = {
        ROOT / "README.md": readme_table(),
        docs / "explanation" / "when-it-pays.md": pays_tables(),
        docs / "research" / "head-start.md": whole_table(HEAD_START),
        docs / "research" / "demo.md": whole_table(*DEMO),
        docs / "research" / "gpu.md": gpu_tables.section("suite"),
        docs / "research" / "cheap-scoring.md": gpu_tables.tuned_section("suite-tuned", 0.05),
        docs / "research" / "dear-scoring.md": gpu_tables.tuned_section("suite-dear", 0.3),
        docs / "research" / "floors.md": gpu_tables.floors_section("suite-floors"),
    }
    if insight_tables.FOLDER.is_dir():
        tables[docs / "how-to" / "look-into-your-data.md"] = insight_tables.section()
    made = {p: written(p.read_text(encoding="utf-8"), table) for p, table in tables.items()}
    return {**made, docs / "reference" / "benchmarks.md": benchmarks_page()}


def whole_table(*suites: str) -> str:
    """Every set and method of each of these suites, those that are there; and its verdict."""
    told = []
    for records in map(records_of, suites):
        there = sorted({record["set"] for record in records})
        told.append(table(records, there) + "\n\n" + verdict(records))
    return "\n\nIn batches of 32:\n\n".join(told)


def main() -> None:
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that its neighbour is found
    main()
