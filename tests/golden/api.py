"""The thin layer between the golden runs and finesieve.

Nothing else in this folder imports the library. If a public name changes, change this file; the
runs, their data and their records stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import finesieve as fs

# A head start replaces the head before the first step; only the run that is about it has one.
PLAIN = {"head_start": 0}


def _stopped() -> float:
    """A clock by which nothing takes any time, so that nothing depends on what steps took."""
    return 0.0


# ---- building


def build_method(name: str, seed: int = 0, **settings: Any) -> Any:
    """Return the method of this name; settings are those of its function in `methods`."""
    return fs.methods.registry.build(name, seed, **settings)


def make_sieve(model: nn.Module, method: Any, **settings: Any) -> Any:
    """Return a sieve that scores `model` as a classifier with one label per example.

    Args:
        model: a classifier, called with the batch without its labels.
        method: from `build_method`.
        settings: of the sieve: `total`, `pool`, `group`, `batch_size`, `seed`, and so on.
    """
    own = {name: settings.pop(name) for name in ("total", "head_start", "seed") if name in settings}
    options = fs.SieveOptions(**{"clock": _stopped, **settings})
    return fs.Sieve(model, method, head=fs.heads.SingleLabel(), options=options, **{**PLAIN, **own})


def token_features(tokens: Any, labels: Any, mask: Any) -> Any:
    """Return features for the predictor, from the columns of a batch that have these names."""
    return fs.token_features(tokens, labels, mask)


def refer(method: Any, ids: npt.NDArray[np.int64], losses: npt.NDArray[np.float32]) -> None:
    """Give the method rho-loss the losses of its reference model, one for each id."""
    method.backward.refer(ids, losses)


def follow_stream(schedule: Any, steps: int, sieve: Any) -> Any:
    """Return a learning-rate schedule of `steps` steps that follows the sieve's progress."""
    return fs.StreamSchedule(schedule, steps, lambda: sieve.progress)


# ---- training


def filtered(sieve: Any, batches: Any) -> Iterator[Any]:
    """Yield the batches of one pass that the sieve selects."""
    yield from sieve(batches)


def bare(batch: Any) -> Any:
    """Return a selected batch as the data loader made it, without ids and weights."""
    return fs.inputs(batch)


def mean_loss(sieve: Any, losses: Tensor, batch: Any) -> Tensor:
    """Return the weighted mean, a scalar, of losses float[n] of a batch that the sieve selected.

    sieve: or a filtered loader of Accelerate's, or a Lightning callback.
    """
    return sieve.loss(losses, batch)


# ---- reading


def carried(batch: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the ids int64[n] and weights float32[n] of a selected batch.

    The Trainer's batches carry no weights while all of them are 1.
    """
    if isinstance(batch, Mapping):
        ids = batch["sieve_ids"]
        weights = batch.get("sieve_weights", torch.ones(len(ids)))
    else:
        ids, weights = batch[-1].ids, batch[-1].weights
    return ids.numpy().copy(), weights.numpy().astype(np.float32)


def passes(sieve: Any) -> int:
    """Return the number of completed passes over the data."""
    return int(sieve.passes)


def stages(sieve: Any) -> list[tuple[int, int]]:
    """Return (stage, number of examples drawn before it began) for every stage of the run."""
    return [(move["stage"], move["from_example"]) for move in sieve.moves]


def counts(sieve: Any) -> tuple[int, int, int]:
    """Return how many examples were drawn, scored and trained on."""
    examples = sieve.ledger.examples
    return examples.drawn, examples.scored, examples.yielded


# ---- saving


def state_of(sieve: Any) -> Any:
    """Return everything that a fresh sieve needs to go on with the run."""
    return sieve.state_dict()


def restore(sieve: Any, state: Any) -> None:
    """Let a fresh sieve go on with the run of `state`."""
    sieve.load_state_dict(state)


# ---- hosts


def frozen_prefix(model: nn.Module, count: int) -> Any:
    """Freeze the embeddings and the first `count` layers, and return what shares their output."""
    from finesieve.scoring.frozen import FrozenPrefix, freeze

    freeze(model, count)
    return FrozenPrefix(model, count)


def attach_trainer(trainer: Any, method: Any, **settings: Any) -> Any:
    """Filter what a Hugging Face Trainer trains on; the result is for `sieve_of`."""
    from finesieve.integrations.transformers import attach as hf

    return hf.attach(trainer, method, **{**PLAIN, **settings})


def filter_accelerate(
    accelerator: Any, loader: Any, model: nn.Module, method: Any, epochs: int, **settings: Any
) -> Any:
    """Return a prepared data loader of Accelerate's, filtered: iterate over it once an epoch."""
    from finesieve.integrations.accelerate import FilteredLoader

    settings = {**PLAIN, "head": fs.heads.SingleLabel(), **settings}
    return FilteredLoader(accelerator, loader, model, method, epochs=epochs, **settings)


def drive_accelerate(stream: Any, schedule: Any) -> Any:
    """Return a learning-rate schedule that follows the progress of a filtered loader."""
    return stream.schedule(schedule)


def lightning_callback(method: Any, **settings: Any) -> Any:
    """Return the callback that filters what a Lightning module trains on."""
    from finesieve import heads
    from finesieve.integrations.lightning import SieveCallback

    return SieveCallback(method, head=heads.SingleLabel(), **{**PLAIN, **settings})


def wrap_lightning(callback: Any, loader: Any) -> Any:
    """Return the data loader to train on, filtered, for `trainer.fit`."""
    return callback(loader)


def lightning_schedule(callback: Any, schedule: Any) -> Any:
    """Return what `configure_optimizers` needs for a schedule that follows the progress."""
    return callback.schedule(schedule)


def lightning_steps(callback: Any) -> int:
    """Return the number of optimizer steps that a schedule under Lightning is made for."""
    return int(callback.steps)


def sieve_of(host: Any) -> Any:
    """Return the sieve behind what one of the host functions above returned."""
    return host.sieve
