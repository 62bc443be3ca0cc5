"""Ids and weights ride inside a batch: the forms they take there, and how to read them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from finesieve.errors import BatchError

IDS, WEIGHTS = "sieve_ids", "sieve_weights"
PREFIX = "sieve_prefix"  # what frozen layers put out (finesieve.scoring.frozen)
FILLER = "sieve_filler"  # True in a filler whose weights a host puts on a device
RIDING = (IDS, WEIGHTS, PREFIX, FILLER)


class Ride(NamedTuple):
    """What rides along with a tuple batch, as its last element.

    Args:
        ids: int64[n].
        weights: float32[n], of mean about 1.
    """

    ids: Tensor
    weights: Tensor


class TensorBatch(NamedTuple):
    """A batch of a loader that yields single tensors: the tensor, ids int64[n], weights
    float32[n]."""

    input: Tensor
    ids: Tensor
    weights: Tensor


def of_kind(kind: type[Any], columns: dict[Any, Any]) -> Mapping[Any, Any]:
    """Make a mapping of this type from the columns, or return the dict itself where the type cannot
    be made from a dict (`defaultdict`, which wants a function first)."""
    if kind is dict:
        return columns
    try:
        made = kind(columns)
        kept = isinstance(made, Mapping) and made.keys() == columns.keys()
    except Exception:  # a type of the user's own may refuse with any error
        kept = False
    return made if kept else columns


def inputs(batch: Any) -> Any:
    """Returns the batch as the loader made it, without what rides along.

    A mapping comes back as a mapping, a tuple as a tuple, a `TensorBatch` as its tensor. What was
    not made by a sieve comes back as it is.
    """
    if isinstance(batch, TensorBatch):
        return batch.input
    if isinstance(batch, Mapping) and IDS in batch:
        if not isinstance(batch, MutableMapping):
            own = {k: v for k, v in batch.items() if k not in RIDING}
            return of_kind(type(batch), own)
        bare = copy.copy(batch)
        for key in RIDING:
            bare.pop(key, None)
        return bare
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[-1], Ride):
        return batch[:-1]
    return batch


def examples_in(batch: Any) -> int:
    """Returns how many examples a batch of any form has: the rows of its first column that has
    any; 0 where nothing tells."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 0
    columns = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(columns, Iterable) or isinstance(columns, str):
        return 0
    for column in columns:
        if isinstance(column, Tensor) and column.ndim:
            return int(column.shape[0])
        if isinstance(column, Sequence) and not isinstance(column, str):
            return len(column)
    return 0


def rides(batch: Any) -> bool:
    """Returns whether the batch carries ids and weights: a sieve made it."""
    if isinstance(batch, Mapping):
        return IDS in batch and WEIGHTS in batch
    last = batch[-1] if isinstance(batch, (tuple, list)) and batch else None
    return isinstance(batch, TensorBatch) or isinstance(last, Ride)


def ride(batch: Any) -> Ride:
    """Returns the ids int64[n] and weights float32[n] of a batch that a sieve made.

    Raises:
        BatchError: for any other batch.
    """
    if isinstance(batch, TensorBatch):
        return Ride(batch.ids, batch.weights)
    if isinstance(batch, Mapping) and IDS in batch and WEIGHTS in batch:
        return Ride(batch[IDS], batch[WEIGHTS])
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[-1], Ride):
        return batch[-1]
    have = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
    raise BatchError(
        f"this batch ({have}) carries no ids and weights: it did not come from a sieve, or they "
        "were dropped on the way; pass the batch that the sieve yielded"
    )


def is_filler(batch: Any) -> bool:
    """Return whether a batch is a filler: one or two examples of weight 0, which add nothing to the
    gradient.

    A sieve yields one to complete an accumulated optimizer step, or to keep this rank in step with
    ranks that have more data left. Leave fillers out of metrics of your own. A batch that no sieve
    made, as after `detach`, is none.
    """
    if not rides(batch):
        return False
    weights = ride(batch).weights
    return len(weights) <= 2 and not bool(weights.any())
