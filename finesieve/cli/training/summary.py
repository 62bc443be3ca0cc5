"""What a run leaves behind in summary.json: its evaluation, its books, and what it was run with."""

from __future__ import annotations

import platform
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve import __version__
from finesieve.cli.results import pack_examples
from finesieve.cli.training.batches import Examples, by_length
from finesieve.cli.training.models import matrix_parameters
from finesieve.cli.training.prepare import Prepared
from finesieve.cli.training.progress import rounded
from finesieve.errors import FinesieveWarning, ScoreError


def versions() -> dict[str, str]:
    """Returns the versions of the packages that decide what a run gives."""
    return {
        "finesieve": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Returns what the run was made on."""
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def evaluate(
    model: nn.Module, examples: Examples, data: Prepared, device: torch.device
) -> tuple[npt.NDArray[np.float64], list[Any]]:
    """Return the loss of each example, float64[n], and what is predicted of it; in eval mode, full
    precision."""
    model.eval()
    head, task = data.task.head(data.targets), data.task
    loss = np.empty(len(examples))
    predicted: list[Any] = [None] * len(examples)
    with torch.inference_mode():
        for index, batch in by_length(examples, 128):
            given = {k: v.to(device) for k, v in batch.items()}
            labels = given.pop("labels")
            logits = model(**given).logits.float()
            loss[index] = head.losses(logits, {"labels": labels}).cpu().numpy()
            truth = [examples.placed(i, logits.shape[1]) for i in index]
            for i, one in zip(index, task.answers(logits.cpu(), truth, data.targets), strict=True):
                predicted[i] = one
    return loss, predicted


def judged(model: nn.Module, data: Prepared, device: torch.device) -> dict[str, Any]:
    """Evaluates a run's model on every set.

    Returns:
        `eval`, over all sets together; `eval_sets`, of each; and `eval_examples`, the loss and
            (where there is such a thing) whether right of each example, packed, in the order of the
            sets.

    Raises:
        ScoreError: if the loss is not finite.
    """
    task, names = data.task, data.labels
    each = {name: evaluate(model, one, data, device) for name, one in data.evals.items()}
    loss = np.concatenate([part for part, _ in each.values()])
    if not np.isfinite(loss.mean()):
        raise ScoreError(
            "the trained model's loss on the evaluation data is not finite: the learning rate "
            "is probably too high, or the model's weights were damaged; nothing was written"
        )
    sets = {}
    for name, (one_loss, one_predicted) in each.items():
        found = task.judge(one_predicted, data.evals[name].truth, names)
        found.pop("classes", None)
        sets[name] = {**found, "loss": float(one_loss.mean()), "n": len(one_loss)}
    predicted = [x for _, part in each.values() for x in part]
    truth = [x for one in data.evals.values() for x in one.truth]
    pooled = {"loss": float(loss.mean()), "n": len(loss), **task.judge(predicted, truth, names)}
    # As float16: what is beyond that can hold is cut.
    short = np.minimum(loss, np.finfo(np.float16).max)
    packed = pack_examples(short, task.right(predicted, truth))
    return {"eval": pooled, "eval_sets": sets, "eval_examples": packed}


def summary_of(run: Any) -> dict[str, Any]:
    """Return what summary.json holds. The model is evaluated here, outside the books;
    a warning says if it gives all examples the same answer.

    Args:
        run: a `training.train.Run` that has ended.
    """
    config, data, sieve = run.config, run.data, run.sieve
    results = judged(run.model, data, run.device)
    warning = data.task.warning(results["eval"], config.as_dict())
    if warning:
        warnings.warn(warning, FinesieveWarning, stacklevel=2)
    ledger, window = sieve.ledger, sieve.window
    drawn = {"drawn": ledger.examples.drawn}, {"drawn": ledger.tokens.drawn}
    if run.subset is not None:  # what was left out was drawn from, too
        lengths = data.train.lengths
        drawn = (
            {"drawn": config.epochs * len(lengths)},
            {"drawn": config.epochs * int(lengths.sum())},
        )
    seconds = {k: round(v, 4) for k, v in ledger.seconds.items()}
    scored, trained = ledger.examples.scored, ledger.examples.yielded
    return {
        "method": config.method,
        "seed": config.seed,
        "examples": {
            **drawn[0],
            "scored": scored,
            "trained": trained,
            "kept_out": ledger.examples.bad,
        },
        "tokens": {**drawn[1], "scored": ledger.tokens.scored, "trained": ledger.tokens.yielded},
        "seconds": {**seconds, "total": round(run.elapsed, 4)},
        "cpu_seconds": round(run.cpu, 4),
        "flops": ledger.flops(*matrix_parameters(run.model)),
        "steps": run.steps,
        "skipped_steps": run.skipped_steps,
        "subset": run.subset,
        "head_start": None if sieve.head_start is None else sieve.head_start.as_dict(),
        "reference_examples": 0 if run.holdout is None else len(run.holdout),
        "stages": sieve.moves,
        "predictor": {
            "auc": rounded(window.auc()),
            "calibration": rounded(window.calibration()),
            "concentration": rounded(window.concentration()),
        },
        "sieve_saved": sieve.figures()["sieve_saved"],
        "cost_ratio": sieve.cost_ratio,
        "costs_measured": {k: sieve.meter.relative(k) for k in ("score", "closed")},
        **results,
        "curve": run.curve,
        "labels": [str(x) for x in data.labels],
        **({} if data.scale is None else {"label_scale": data.scale.as_dict()}),
        "versions": versions(),
        "hardware": hardware(run.device),
        "config": config.as_dict(),
        "data": data.source,
    }
