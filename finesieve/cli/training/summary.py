"""What a run leaves behind in summary.json: its evaluation, its books, and what it was run with."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from finesieve import __version__
from finesieve.cli.correlation import flat_warning, regression
from finesieve.cli.metrics import classification, one_class_warning
from finesieve.cli.results import pack_examples
from finesieve.cli.training.batches import Examples, by_length
from finesieve.cli.training.models import matrix_parameters
from finesieve.cli.training.progress import rounded
from finesieve.cli.training.targets import Scale
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
    model: nn.Module, examples: Examples, device: torch.device, scale: Scale | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the loss of each example float64[n], and predicted classes int64[n]; in eval mode,
    full precision.

    With the scale of a regression's targets the loss is the squared error of the targets, and
    predicted are numbers float64[n] in the labels' own unit.
    """
    model.eval()
    loss = np.empty(len(examples))
    predicted = np.empty(len(examples), dtype=np.int64 if scale is None else np.float64)
    with torch.inference_mode():
        for index, batch in by_length(examples, 128):
            given = {k: v.to(device) for k, v in batch.items()}
            labels = given.pop("labels")
            logits = model(**given).logits.float()
            if scale is None:
                loss[index] = F.cross_entropy(logits, labels, reduction="none").cpu().numpy()
                predicted[index] = logits.argmax(-1).cpu().numpy()
            else:
                found = logits.flatten()
                loss[index] = (found - labels).square().cpu().numpy()
                predicted[index] = scale.labels(found.cpu().numpy())
    return loss, predicted


def judged(
    model: nn.Module,
    evals: Mapping[str, Examples],
    names: Sequence[Any],
    device: torch.device,
    scale: Scale | None = None,
) -> dict[str, Any]:
    """Evaluates a run's model on every set.

    Args:
        names: of the classes; of no use with `scale`.
        scale: of a regression's targets.

    Returns:
        `eval`, over all sets together; `eval_sets`, of each; and `eval_examples`, the loss and
            (of classes) whether right of each example, packed, in the order of the sets.

    Raises:
        ScoreError: if the loss is not finite.
    """
    each = {name: evaluate(model, examples, device, scale) for name, examples in evals.items()}
    labels = {name: examples.labels for name, examples in evals.items()}

    def metrics(predicted: npt.NDArray[Any], truth: npt.NDArray[Any]) -> dict[str, Any]:
        if scale is None:
            return classification(predicted, truth, names)
        return regression(predicted, scale.labels(truth))

    loss, predicted = (np.concatenate(parts) for parts in zip(*each.values(), strict=True))
    if not np.isfinite(loss.mean()):
        raise ScoreError(
            "the trained model's loss on the evaluation data is not finite: the learning rate "
            "is probably too high, or the model's weights were damaged; nothing was written"
        )
    sets = {}
    for name, (one_loss, one_predicted) in each.items():
        found = metrics(one_predicted, labels[name])
        found.pop("classes", None)
        sets[name] = {**found, "loss": float(one_loss.mean()), "n": len(one_loss)}
    truth = np.concatenate(list(labels.values()))
    pooled = {"loss": float(loss.mean()), "n": len(loss), **metrics(predicted, truth)}
    if scale is None:
        packed = pack_examples(loss, predicted == truth)
    else:  # as float16: an outlier is cut to what that can hold
        packed = pack_examples(np.minimum(loss, np.finfo(np.float16).max))
    return {"eval": pooled, "eval_sets": sets, "eval_examples": packed}


def summary_of(run: Any) -> dict[str, Any]:
    """Return what summary.json holds. The model is evaluated here, outside the books;
    a warning says if it predicts one class, or number, for everything.

    Args:
        run: a `training.train.Run` that has ended.
    """
    config, data, sieve = run.config, run.data, run.sieve
    results = judged(run.model, data.evals, data.labels, run.device, data.scale)
    given = config.as_dict()
    warning = one_class_warning(results["eval"], given) or flat_warning(results["eval"], given)
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
