"""How good a head is that is fitted to the first examples, on features that were not trained.

    python benchmarks/fitted_head.py --data-dir DATA --output results/research/head-start.json

For each set: loss of the random head and of the best constant on the half that was not fitted, the
loss there for each strength of the regularisation, and accuracy and loss of the fitted head on test
examples.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from finesieve.cli.config import Config
from finesieve.cli.training.batches import Loader
from finesieve.cli.training.models import load_model
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.summary import judged, versions
from finesieve.scoring.head_start import EXAMPLES, STRENGTHS, _Fit, start_head
from finesieve.scoring.last_layer import joined
from finesieve.scoring.scorers import Classification

SETS = ("trec6", "emotion", "banking77", "snips", "clickbait")


def measure(data_dir: Path, name: str) -> dict[str, Any]:
    """Return the figures of one set."""
    files = {kind: str(data_dir / name / f"{kind}.jsonl.gz") for kind in ("train", "test")}
    config = Config(
        train=files["train"], eval=(files["test"],), max_length=64, limit=3000, eval_limit=1000
    )
    data = prepare(config)
    model = load_model("minilm", data.labels, 0, dropout=0.0)
    scorer, parts = Classification(model), []
    for batch in Loader(data.train, 32, 0, 0):
        del batch["example"]
        part = scorer.last_layer(batch)
        assert part is not None
        parts.append(part)
        if 32 * len(parts) >= EXAMPLES:
            break
    found = joined(parts)
    halves = [torch.arange(start, len(found), 2) for start in (0, 1)]
    before, frequencies, *tried = _Fit(found).judge(*halves)
    came = start_head(found)
    test = judged(model, data, torch.device("cpu"))["eval"]
    return {
        "classes": len(data.labels),
        "examples": len(found),
        "held_out_loss": {
            "random head": round(before, 4),
            "label frequencies": round(frequencies, 4),
            "by strength": {str(s): round(x, 4) for s, x in zip(STRENGTHS, tried, strict=True)},
        },
        "strength": came.strength,
        "test": {k: round(test[k], 4) for k in ("accuracy", "loss")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = "python benchmarks/fitted_head.py --data-dir DATA"
    result = {"command": command, "versions": versions(), "sets": {}}
    for name in SETS:
        result["sets"][name] = measure(args.data_dir, name)
        print(name, result["sets"][name]["test"], flush=True)
    text = json.dumps(result, indent=1) + "\n"
    target = args.output or Path(tempfile.gettempdir()) / "head-start.json"
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
