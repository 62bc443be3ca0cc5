"""What the predictor sees of a batch, without the model: token ids or raw text, and the label.

Names belong to dict batches and other mappings. In a tuple or list batch, or one that is a single
tensor, tokens and labels that go by a name are found by their form: of several elements, the last
one is the labels, as long as it holds a number or a row of numbers per example, and tokens are the
first tensor of whole numbers before it with two dimensions, [n, length]. A single element can be
tokens only. Padding counts as tokens there. A place in the batch, `token_features(0, 2, 1)`, says
outright which element is meant. Where there are no tokens, the predictor goes by the label alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from finesieve.errors import BatchError
from finesieve.gates.protocol import Features, FloatArray, IntArray

FeatureFunction = Callable[[Any], Features]

IGNORED = -100  # a label that is no target, as everywhere in PyTorch
_WORD = re.compile(r"\w+|[^\w\s]")


def array_of(values: Any) -> Any:
    """Returns a tensor, or what can be made one, as an array of its type (bfloat16, which NumPy
    does not have, as float32).

    On the CPU it shares the tensor's memory; from a device it is copied, which waits for it.
    """
    tensor = torch.as_tensor(values)  # of a tensor itself
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return (tensor if tensor.is_cpu else tensor.cpu()).numpy()


def _column(batch: Any, key: str | int) -> Any:
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        have = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise BatchError(
            f"the predictor's features need {key!r}, but the batch has {have}: name the right "
            "keys, SieveOptions(features=token_features('x', 'y')), or give a feature function of "
            "your own (batch -> Features)"
        ) from None


def _elements(batch: Any) -> tuple[list[Any], Any]:
    """Returns the inputs of a batch without names, and its last element; None for that if there is
    but one."""
    if torch.is_tensor(batch):
        return [batch], None
    return (list(batch[:-1]), batch[-1]) if len(batch) > 1 else (list(batch), None)


def _nameless(batch: Any, key: str | int | None) -> bool:
    """Returns whether this key is a name and the batch one without names, so that forms have to
    tell."""
    return isinstance(key, str) and isinstance(batch, (tuple, list, torch.Tensor))


def _whole(value: Any, ndim: int) -> bool:
    """Returns whether this is a tensor of whole numbers with so many dimensions."""
    return (
        torch.is_tensor(value)
        and value.ndim == ndim
        and value.dtype != torch.bool
        and not value.is_floating_point()
        and not value.is_complex()
    )


def _tokens(batch: Any, key: str | int, ndim: int = 2) -> Any:
    """Returns the tokens, [n, length] or what else has `ndim` dimensions; None where there are
    none."""
    if _nameless(batch, key):
        return next((x for x in _elements(batch)[0] if _whole(x, ndim)), None)
    return _column(batch, key)


def _targets(batch: Any, key: str | int) -> Any:
    """Returns the labels; None where the last element of a batch without names is something
    else."""
    if not _nameless(batch, key):
        return _column(batch, key)
    try:
        numbers = torch.as_tensor(_elements(batch)[1])
    except (TypeError, ValueError, RuntimeError):  # None, or a list of words
        return None
    return numbers if numbers.ndim in (1, 2) else None


def _labels(batch: Any, key: str | int | None, shape: tuple[int, ...]) -> IntArray:
    """Returns what to cross with, int64[n]: whole numbers as they are, real ones in ten steps, rows
    hashed.

    A label for every token, so of the tokens' shape, is crossed with nothing: hardly any row comes
    twice.
    """
    n = shape[0]
    labels = None if key is None else _targets(batch, key)
    if labels is None:
        return np.zeros(n, dtype=np.int64)
    values = array_of(labels) if torch.is_tensor(labels) else np.asarray(labels)
    if values.dtype.kind == "f":
        values = np.rint(values * 10)
    values = np.asarray(values, dtype=np.int64)
    if values.ndim == 1:
        return values
    if values.shape == shape:
        return np.zeros(n, dtype=np.int64)
    flat = values.reshape(n, -1)
    powers = (1_000_003 ** np.arange(flat.shape[1], dtype=np.uint64)).astype(np.int64)
    return np.asarray(np.abs((flat * powers).sum(axis=1)), dtype=np.int64)


def _count(batch: Any, targets: str | int) -> FloatArray:
    """Returns how many targets each example has, float32[n].

    Raises:
        BatchError: where there are none, or they are not [n, length].
    """
    found = _targets(batch, targets)
    if found is None:
        raise BatchError(
            f"{targets!r} is the last element of a tuple batch, and this batch has "
            "none of numbers: name its place, or give a feature function of your own"
        )
    told = torch.as_tensor(found).detach()
    if told.ndim != 2:
        raise BatchError(f"{targets!r} has shape {tuple(told.shape)}; expected targets [n, length]")
    return np.asarray((told != IGNORED).sum(dim=1).cpu().numpy(), dtype=np.float32)


def target_features(targets: str | int = "labels") -> FeatureFunction:
    """Makes features of generation: how many targets an example has, and nothing else.

    Args:
        targets: the column int64[n, length], -100 where there is none. Words were measured to
            foresee nothing there, and to drown what the number tells (docs/research/generation.md).
    """

    def features(batch: Any) -> Features:
        count = _count(batch, targets)
        alike = np.zeros(len(count), dtype=np.int64)
        return Features(alike[:, None], alike, count)

    return features


def token_features(
    tokens: str | int = "input_ids",
    labels: str | int | None = "labels",
    mask: str | int | None = "attention_mask",
    max_tokens: int = 128,
    targets: str | int | None = None,
) -> FeatureFunction:
    """Make features from token ids: int[n, L] under `tokens`, of which the first `max_tokens`
    count.

    Batches without names (tuples, lists, single tensors) are read by their form, as the top of
    this module says; they have features too if they hold no tokens: the label alone.

    Args:
        mask: int[n, L], 0 where there is padding; without one every position counts.
        targets: int[n, T], a target for every token, -100 where there is none: how many there are
            is a feature.
    """

    def features(batch: Any) -> Features:
        given = _tokens(batch, tokens)
        if given is None:
            n = len(_elements(batch)[0][0])
            count = None if targets is None else _count(batch, targets)
            return Features(np.zeros((n, 1), np.int64), _labels(batch, labels, (n,)), count)
        ids = array_of(given)
        if ids.ndim != 2:
            raise BatchError(f"{tokens!r} has shape {ids.shape}; expected token ids [n, length]")
        # A copy in any case: neither is changed when the other is.
        masked = (
            mask is not None
            and not _nameless(batch, mask)
            and (not isinstance(batch, Mapping) or mask in batch)
        )
        ids = ids.astype(np.int64, copy=not masked)
        if masked:
            assert mask is not None
            real = array_of(_column(batch, mask)) != 0
            ids = np.where(real, ids, -1)
            if not real[:, :1].all():  # padded on the left: what is real comes first
                ids = np.take_along_axis(ids, np.argsort(~real, axis=1, kind="stable"), axis=1)
        count = None if targets is None else _count(batch, targets)
        return Features(ids[:, :max_tokens], _labels(batch, labels, ids.shape), count)

    return features


def choice_features(
    tokens: str = "input_ids",
    labels: str = "labels",
    mask: str = "attention_mask",
    max_tokens: int = 128,
) -> FeatureFunction:
    """Makes features of multiple choice, tokens int[n, choices, length]: those of the right choice.

    Which place it stands at tells nothing, so there is no label to cross with.
    """
    plain = token_features(tokens, None, mask, max_tokens)

    def features(batch: Any) -> Features:
        given, right_one = _tokens(batch, tokens, 3), _targets(batch, labels)
        if given is None or right_one is None:
            raise BatchError(
                f"no {tokens!r} [n, choices, length], or no {labels!r}, in a "
                f"{type(batch).__name__}: give a feature function of your own"
            )
        ids = torch.as_tensor(given)
        if ids.ndim != 3:
            raise BatchError(
                f"{tokens!r} has shape {tuple(ids.shape)}; expected [n, choices, length]"
            )
        at = torch.as_tensor(right_one).to(ids.device)
        rows = torch.arange(len(ids), device=ids.device)
        right = {tokens: ids[rows, at]}
        if isinstance(batch, Mapping) and mask in batch:
            right[mask] = torch.as_tensor(batch[mask])[rows, at]
        return plain(right)

    return features


def text_features(
    text: str | int = "text", labels: str | int | None = "labels", max_tokens: int = 128
) -> FeatureFunction:
    """Makes features from raw text: lower-cased words, hashed.

    Args:
        text: the column, or place, of a list of n strings.
        labels: what to cross with; None for nothing.
        max_tokens: words of each text that are looked at.
    """

    def features(batch: Any) -> Features:
        texts: Sequence[str] = _column(batch, text)
        rows = [
            [zlib.crc32(w.encode()) for w in _WORD.findall(t.lower())[:max_tokens]] for t in texts
        ]
        width = max((len(r) for r in rows), default=0)
        tokens = np.full((len(rows), max(1, width)), -1, dtype=np.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return Features(tokens, _labels(batch, labels, (len(rows),)))

    return features
