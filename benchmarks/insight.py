"""How good are the insights? Wrong labels against cleanlab, clean sets, forecasts, repeats.

python benchmarks/insight.py --data-dir DATA --cache FOLDER --output results/insight [PART ...]

Every set is run through the frozen MiniLM once, into the cache; all parts use these features. The
method was chosen on trec6, snips and ag_news_noisy10k; numbers on these are not a claim. The parts
`labels` and `clean` need cleanlab and scikit-learn. Runs of the command are in insight_runs.py.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import resource
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finesieve.cli.training.models import load_model, load_tokenizer
from finesieve.insight.curves import learning_curve
from finesieve.insight.embed import embed
from finesieve.insight.folds import Heads, folds_of
from finesieve.insight.labels import judge
from finesieve.insight.passed_over import by_words, pooled
from finesieve.insight.repeats import repeats

LIMITS = {"clickbait": 10_000, "subj": 5_000, "emotion": 6_000, "dbpedia14_14k": 5_000, "mr": 5_000}
CHOSEN_ON = ("trec6", "snips", "ag_news_noisy10k")
FLIPPED = ("clickbait", "subj", "hwu64", "emotion", "dbpedia14_14k")
BINARY = ("clickbait", "subj")  # there the most similar class is any other
CLEAN = ("clickbait", "subj", "dbpedia14_14k")
ENOUGH = (*CHOSEN_ON, *FLIPPED, "banking77", "mr")
MODEL = {
    "trained": "all-MiniLM-L6-v2, trained for an epoch",
    "folds": "all-MiniLM-L6-v2, trained for an epoch",
    "cost": "all-MiniLM-L6-v2, trained for an epoch",
    "memory": "none",
    "large": "none",
}
MOST, SEEDS = 5_000, 3
Arrays = dict[str, Any]


def read(args: argparse.Namespace, name: str) -> Arrays:
    """Features x float32[n, d], labels y, the crowd's `noisy`, rows `idx`, seconds, texts and their
    tokens."""
    cached = args.cache / f"{name}.npz"
    with gzip.open(args.data_dir / name / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if not cached.exists():
        index = np.arange(len(rows))
        if name in LIMITS:
            index = np.random.default_rng(0).permutation(len(rows))[: LIMITS[name]]
        start = time.process_time()
        some = [rows[i] for i in index]
        tokenizer, model = minilm()
        found = embed(model, tokenizer, [row["text"] for row in some])
        np.savez(
            cached,
            x=found.features,
            y=np.array([row["label"] for row in some]),
            noisy=np.array([row.get("noisy_label", row["label"]) for row in some]),
            idx=index,
            seconds=time.process_time() - start,
        )
    out = dict(np.load(cached))
    out["texts"] = [rows[i]["text"] for i in out["idx"]]
    read = minilm()[0](out["texts"], truncation=True, max_length=128)["input_ids"]
    out["tokens"] = [np.asarray(ids) for ids in read]
    return out


@cache
def minilm() -> tuple[Any, Any]:
    return load_tokenizer("minilm"), load_model("minilm", [0, 1], 0)


def flipped(y: Any, p: Any, share: float, kind: str, seed: int) -> Any:
    """The labels with a share of them flipped: to any other class, or to the one that a model of
    the clean labels, float[n, k], mixes it up with most."""
    dice, classes = np.random.default_rng([seed, 5]), p.shape[1]
    bad = dice.random(len(y)) < share
    out = y.copy()
    if kind == "uniform":
        out[bad] = (y[bad] + dice.integers(1, classes, bad.sum())) % classes
        return out
    mixed = np.stack([p[y == k].mean(axis=0) for k in range(classes)])
    np.fill_diagonal(mixed, -1.0)
    out[bad] = mixed.argmax(axis=1)[y[bad]]
    return out


def ranked(scores: Any, bad: Any) -> dict[str, float]:
    """Area under the precision-recall curve, and lift at the number of errors, of low scores."""
    hits = bad[np.argsort(scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return {
        "auprc": float((precision * hits).sum() / hits.sum()),
        "lift": float(precision[hits.sum() - 1] / bad.mean()),
    }


def ours(
    x: Any, given: Any, texts: list[str], seed: int, tokens: Any = None
) -> tuple[Any, Any, float]:
    """Probabilities, judgements and seconds; by the features alone without `tokens`."""
    start, classes = time.process_time(), int(given.max()) + 1
    _, near = repeats(texts, seed)
    fold = folds_of(given, near, 5, seed)
    p = Heads(x, given, classes, seed).out_of_fold(fold)
    words = by_words(minilm()[1], tokens, given, fold, classes, seed)
    if words is not None:
        p = pooled(p, words)
    found = judge(p, given, seed)
    return p, found, time.process_time() - start


def theirs(x: Any, given: Any, seed: int) -> tuple[Any, float]:
    """Probabilities of a cross-validated logistic regression, as cleanlab's tutorials have it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    start = time.process_time()
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=1000)
    p = cross_val_predict(model, x, given, cv=folds, method="predict_proba")
    return p, time.process_time() - start


def labels(args: argparse.Namespace) -> list[Arrays]:
    from cleanlab.rank import get_label_quality_scores

    path = args.output / "labels.json"  # what is there is not made again
    out = json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []
    there = {(r["set"], r["kind"], r["share"]) for r in out}
    cases = [("ag_news_noisy10k", "crowd", 0.0)]
    cases += [(s, k, r) for s in FLIPPED for k in ("uniform", "similar") for r in (0.1, 0.2)]
    for name, kind, share in cases:
        if (name, kind, share) in there or (name in BINARY and kind == "similar"):
            continue
        data = read(args, name)
        most = len(data["y"]) if kind == "crowd" else MOST
        x, y, texts = data["x"][:most], data["y"][:most], data["texts"][:most]
        tokens = data["tokens"][:most]
        clean, _, _ = ours(x, y, texts, 0)
        for seed in range(SEEDS):
            given = data["noisy"] if kind == "crowd" else flipped(y, clean, share, kind, seed)
            bad = given != y
            p, found, seconds = ours(x, given, texts, seed, tokens)
            other, their_seconds = theirs(x, given, seed)
            record = {
                "set": name,
                "kind": kind,
                "share": share,
                "seed": seed,
                "rows": len(y),
                "wrong": int(bad.sum()),
                "estimate": [found.wrong.value, found.wrong.low, found.wrong.high],
                "confident": found.confident,
                "seconds": {
                    "features": float(data["seconds"]) * most / len(data["y"]),
                    "ours": seconds,
                    "cleanlab": their_seconds,
                },
                "ours": ranked(found.quality, bad),
                "cleanlab": ranked(get_label_quality_scores(given, other), bad),
                "cleanlab, margin": ranked(
                    get_label_quality_scores(given, other, method="normalized_margin"), bad
                ),
                "cleanlab, our probabilities": ranked(get_label_quality_scores(given, p), bad),
            }
            out.append(record)
            print(json.dumps(record), flush=True)
    return out


def clean(args: argparse.Namespace) -> list[Arrays]:
    from cleanlab.count import num_label_issues

    out = []
    for name in CLEAN:
        data = read(args, name)
        p, found, _ = ours(data["x"], data["y"], data["texts"], 0, data["tokens"])
        order = np.argsort(found.quality, kind="stable")
        order = order[found.suggested[order] != data["y"][order]]
        top = [
            {
                "row": int(data["idx"][i]),
                "given": int(data["y"][i]),
                "suggested": int(found.suggested[i]),
            }
            for i in order[:30]
        ]
        out.append(
            {
                "set": name,
                "rows": len(p),
                "estimate": [found.wrong.value, found.wrong.low, found.wrong.high],
                "cleanlab": int(num_label_issues(data["y"], p)),
                "top": top,
            }
        )
        print(json.dumps(out[-1]), flush=True)
    return out


def enough(args: argparse.Namespace) -> list[Arrays]:
    """The forecast from the first half of a shuffled stream, against the whole."""
    out = []
    for name in ENOUGH:
        data = read(args, name)
        for seed in range(SEEDS):
            order = np.random.default_rng([seed, 6]).permutation(len(data["y"]))
            x, y = data["x"][order], data["y"][order]
            texts = [data["texts"][i] for i in order]
            p, _, _ = ours(x, y, texts, seed)
            half = len(y) // 2
            half_p, _, _ = ours(x[:half], y[:half], texts[:half], seed)
            heads = Heads(x[:half], y[:half], int(y.max()) + 1, seed)
            curve = learning_curve(heads, y[:half], half_p.astype(np.float64), seed)
            gain = curve.forecast[2.0]
            change = float((p.argmax(axis=1) != y).mean()) - curve.now
            out.append(
                {
                    "set": name,
                    "seed": seed,
                    "rows": half,
                    "error": curve.now,
                    "change": change,
                    "forecast": [gain.value, gain.low, gain.high],
                    "holds": bool(gain.low <= change <= gain.high),
                }
            )
            print(json.dumps(out[-1]), flush=True)
    return out


def injected(args: argparse.Namespace) -> list[Arrays]:
    """Copies with other case and blanks, and copies with a word changed, left out or misspelt."""
    out = []
    for name in ("clickbait", "snips", "ag_news_noisy10k"):
        texts = read(args, name)["texts"]
        exact, near = repeats(texts)
        alone = np.flatnonzero(
            (exact == np.arange(len(texts))) & (np.bincount(near, minlength=len(texts))[near] == 1)
        )
        dice = np.random.default_rng(0)
        texts = [texts[i] for i in alone]  # in which nothing repeats, as far as we can tell
        some = dice.choice(len(texts), 1000, replace=False)
        copies = [f" {texts[i].upper()}" for i in some[:500]]
        copies += [edited(texts[i], dice) for i in some[500:]]
        start = time.process_time()
        exact, near = repeats([*texts, *copies])
        seconds = time.process_time() - start
        n = len(texts)
        right = near[n:] == some
        out.append(
            {
                "set": name,
                "rows": n,
                "words": float(np.mean([len(t.split()) for t in texts])),
                "exact recall": float((exact[n : n + 500] == some[:500]).mean()),
                "edited recall": float(right[500:].mean()),
                "precision": float(right.sum() / max(1, (near != np.arange(len(near))).sum())),
                "seconds": seconds,
            }
        )
        print(json.dumps(out[-1]), flush=True)
    texts = read(args, "clickbait")["texts"] + read(args, "snips")["texts"]
    pairs = np.random.default_rng(0).integers(0, len(texts), (1_000_000, 2))
    many = [f"{texts[i]} {texts[j]}" for i, j in pairs]
    wall, start = time.time(), time.process_time()
    _, near = repeats(many)
    out.append(
        {
            "set": "pairs of clickbait and snips",
            "rows": len(many),
            "bytes": sum(map(len, many)),
            "seconds": time.process_time() - start,
            "wall": time.time() - wall,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "repeats": int((near != np.arange(len(near))).sum()),
        }
    )
    print(json.dumps(out[-1]), flush=True)
    return out


def edited(text: str, dice: np.random.Generator) -> str:
    """The text with one word left out, doubled or misspelt."""
    words = text.split()
    i = int(dice.integers(len(words)))
    kind = int(dice.integers(3))
    if kind == 0 and len(words) > 1:
        del words[i]
    elif kind == 1:
        words.insert(i, words[i])
    else:
        words[i] = words[i][: len(words[i]) // 2] + "x" + words[i][len(words[i]) // 2 :]
    return " ".join(words)


PARTS = {
    "labels": labels,
    "clean": clean,
    "enough": enough,
    "repeats": injected,
}


def main(parts: dict[str, Callable[[argparse.Namespace], list[Arrays]]], script: str) -> None:
    """Runs the parts that are asked for and writes what they give."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(parts), metavar="PART")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("results/insight"))
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for part in args.parts:
        records = parts[part](args)
        others = ["cleanlab", "scikit-learn"] if part in ("labels", "folds") else []
        packages = ["torch", "numpy", *others]
        told = {
            "command": f"python benchmarks/{script} --data-dir DATA --cache FOLDER {part}",
            "versions": {name: version(name) for name in packages},
            "hardware": {"device": "cpu", "name": platform.machine(), "threads": 1},
            "model": MODEL.get(part, "all-MiniLM-L6-v2, frozen, mean of the last hidden states"),
            "chosen_on": CHOSEN_ON,
            "records": records,
        }
        path = args.output / f"{part}.json"
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(PARTS, "insight.py")
