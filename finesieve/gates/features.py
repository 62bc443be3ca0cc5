"""What the predictor sees of a batch, without the model: token ids or raw text, and the label."""

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


def _column(batch: Any, key: str | int) -> Any:
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        have = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise BatchError(
            f"the predictor's features need {key!r}, but the batch has {have}: name the right "
            "key, or give a feature function of your own (batch -> Features)"
        ) from None


def _labels(batch: Any, key: str | int | None, shape: tuple[int, ...]) -> IntArray:
    """int64[n] to cross with: whole numbers as they are, real ones in ten steps, rows hashed.

    A label for every token, so of the tokens' shape, is crossed with nothing: hardly any row
    comes twice.
    """
    n = shape[0]
    if key is None:
        return np.zeros(n, dtype=np.int64)
    labels = _column(batch, key)
    values = labels.detach().cpu().numpy() if torch.is_tensor(labels) else np.asarray(labels)
    if np.issubdtype(values.dtype, np.floating):
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
    """float32[n], how many targets each example has."""
    told = torch.as_tensor(_column(batch, targets)).detach()
    if told.ndim != 2:
        raise BatchError(f"{targets!r} has shape {tuple(told.shape)}; expected targets [n, length]")
    return np.asarray((told != IGNORED).sum(dim=1).cpu().numpy(), dtype=np.float32)


def target_features(targets: str | int = "labels") -> FeatureFunction:
    """Features of generation: how many targets an example has, and nothing else.

    targets: int[n, T], -100 where there is none. Words were measured to foresee nothing there, and
    to drown what the number tells (docs/research/generation.md).
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
    """Features from token ids: int[n, L] under `tokens`, of which the first `max_tokens` count.

    mask: int[n, L], 0 where there is padding; without one every position counts.
    targets: int[n, T], a target for every token, -100 where there is none: how many there are is a
        feature.
    """

    def features(batch: Any) -> Features:
        ids = torch.as_tensor(_column(batch, tokens)).detach().cpu().numpy()
        if ids.ndim != 2:
            raise BatchError(f"{tokens!r} has shape {ids.shape}; expected token ids [n, length]")
        ids = ids.astype(np.int64, copy=True)
        if mask is not None and (not isinstance(batch, Mapping) or mask in batch):
            real = torch.as_tensor(_column(batch, mask)).detach().cpu().numpy() != 0
            ids[~real] = -1
            if not real[:, :1].all():  # padded on the left: what is real comes first
                ids = np.take_along_axis(ids, np.argsort(~real, axis=1, kind="stable"), axis=1)
        count = None if targets is None else _count(batch, targets)
        return Features(ids[:, :max_tokens], _labels(batch, labels, ids.shape), count)

    return features


def choice_features(
    tokens: str = "input_ids", labels: str = "labels", mask: str = "attention_mask",
    max_tokens: int = 128,
) -> FeatureFunction:
    """Features of multiple choice, tokens int[n, choices, length]: those of the right choice.

    Which place it stands at tells nothing, so there is no label to cross with.
    """
    plain = token_features(tokens, None, mask, max_tokens)

    def features(batch: Any) -> Features:
        ids = torch.as_tensor(_column(batch, tokens))
        if ids.ndim != 3:
            raise BatchError(
                f"{tokens!r} has shape {tuple(ids.shape)}; expected [n, choices, length]"
            )
        at = torch.as_tensor(_column(batch, labels)).to(ids.device)
        rows = torch.arange(len(ids), device=ids.device)
        right = {tokens: ids[rows, at]}
        if mask in batch:
            right[mask] = torch.as_tensor(batch[mask])[rows, at]
        return plain(right)

    return features


def text_features(
    text: str | int = "text", labels: str | int | None = "labels", max_tokens: int = 128
) -> FeatureFunction:
    """Features from raw text: a list of n strings under `text`; lower-cased words, hashed."""

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
