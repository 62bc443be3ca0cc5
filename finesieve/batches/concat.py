"""Rows of several batches put one after another, padded to the widest."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finesieve.batches.padding import Column, Columns, Padding, text_mask
from finesieve.batches.rows import Rows
from finesieve.errors import BatchError

_ALIKE = (
    "examples of different batches are put together, so all batches must have the same columns; "
    "several tasks with columns of their own need a sieve each, or a collate function that gives "
    "all of them the same columns"
)
Kind = tuple[int, bool] | None


def concat(padding: Padding, parts: Sequence[Rows]) -> Rows:
    """Returns the rows of all parts, one after another.

    Args:
        padding: tells what to pad with where they are not of one width.
        parts: one at least.

    Raises:
        BatchError: where the parts have other columns or other kinds of values.
    """
    if len(parts) == 1:
        return parts[0]
    keys = parts[0].columns.keys()
    for part in parts:
        if part.columns.keys() != keys:
            raise BatchError(
                f"batches with columns {sorted(map(str, part.columns))} and "
                f"{sorted(map(str, keys))} came from the same loader: {_ALIKE}"
            )
    columns, left = dict[Hashable, Column](), dict[Hashable, list[Column]]()
    for key in keys:
        pieces = [part.columns[key] for part in parts]
        whole = _joined(pieces)
        if whole is None:
            left[key] = pieces
        columns[key] = pieces[0] if whole is None else whole
    if left:
        columns |= _padded(padding, left, [part.columns for part in parts])
    return Rows(
        columns,
        np.concatenate([p.lengths for p in parts]),
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.weights for p in parts]),
        np.concatenate([p.spans for p in parts]),
    )


def _joined(pieces: list[Any]) -> Column | None:
    """Returns the pieces of a column one after another, where that is all there is to do: they are
    lists, or tensors that differ in nothing but how many rows they have. None else."""
    first = pieces[0]
    if isinstance(first, list):
        lists = all(isinstance(piece, list) for piece in pieces)
        return [x for piece in pieces for x in piece] if lists else None
    width, dtype, device = first.shape[1:], first.dtype, first.device
    for piece in pieces:
        if (
            not isinstance(piece, Tensor)
            or piece.shape[1:] != width
            or piece.dtype != dtype
            or piece.device != device
        ):
            return None
    return torch.cat(pieces)


def _padded(
    padding: Padding, left: Mapping[Hashable, list[Column]], parts: Sequence[Columns]
) -> dict[Hashable, Column]:
    """Returns columns with their pieces padded to the widest."""
    padding.check_mask(parts)
    axes = {key: text.mask.ndim - 1 for text in padding.texts(parts[0]) for key in text.keys}
    mask = text_mask(parts[0])
    axis = 1 if mask is None else mask.ndim - 1  # of columns that no mask speaks of
    columns: dict[Hashable, Column] = {}
    for key, pieces in left.items():
        kind = kind_of(pieces[0])
        for piece in pieces:
            if kind_of(piece) != kind:
                raise BatchError(
                    f"column {key!r} is {_told(kind)} in one batch and "
                    f"{_told(kind_of(piece))} in another: {_ALIKE}"
                )
        tensors = [piece for piece in pieces if isinstance(piece, Tensor)]
        columns[key] = padding.cat(key, tensors, key in axes, axes.get(key, axis))
    return columns


def kind_of(column: Column) -> Kind:
    """Returns what columns of several batches must have in common to be put together: how many axes
    they have, and whether of real numbers; None for a list."""
    return (column.ndim, column.is_floating_point()) if isinstance(column, Tensor) else None


def _told(kind: Kind) -> str:
    """Returns the kind of a column in words."""
    if kind is None:
        return "a list"
    axes, real = kind
    return f"{'real' if real else 'whole'} numbers on {axes} axes"
