"""What a language model is trained on, row by row: tokens, targets, ends, cut answers, losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve.errors import ConfigError, DataError
from finesieve.gates.features import IGNORED
from finesieve.insight.columns import column, names_of
from finesieve.scoring.heads import Tokens
from finesieve.sieve.answers import cut_rows, ended, ends_of

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
LIMIT = 1024  # tokens that a row is cut at, unless it is said otherwise: TRL's own
_TOKENS, _ROWS = 4096, 64  # padded tokens and rows of one forward, at the most


@dataclass(frozen=True)
class Answered:
    """What is known of n rows of tokens.

    Attributes:
        tokens, targets: int64[n], of each row, and those of them that are targets.
        losses: float32[n], the mean over a row's targets; 0 without any.
        sizes: float64[n], norms of their gradients at the logits.
        whole: bool[n], whether the last targets hold an end-of-sequence token; None if the model's
            configuration names none.
        cut: bool[n], longer than `limit`, or cut before.
        limit: tokens.
    """

    tokens: Ints
    targets: Ints
    losses: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float64]
    whole: Bools | None
    cut: Bools
    limit: int

    @property
    def troubles(self) -> dict[str, Bools]:
        """What may be wrong with a row, the worst first; a row counts for one alone."""
        none = self.targets == 0
        cut = self.cut & ~none
        out = {"no target": none, "cut": cut}
        if self.whole is not None:
            out["no end"] = ~self.whole & ~cut & ~none
        return out

    def sentences(self) -> list[str]:
        """Returns what a person should know, one sentence each."""
        n, out = len(self.tokens), []
        counts = {name: int(rows.sum()) for name, rows in self.troubles.items()}
        if counts["no target"]:
            out.append(
                f"{counts['no target']:,} of {n:,} rows have no target token, so nothing is "
                "learned from them: all of their labels are masked."
            )
        if counts["cut"]:
            out.append(
                f"{counts['cut']:,} of {n:,} rows are cut at {self.limit:,} tokens, so their "
                "answers have no end."
            )
        ends = counts.get("no end", 0)
        if ends and self.whole is not None and not self.whole.any():
            out.append(
                "No row's targets hold an end-of-sequence token: a model that is trained on them "
                "does not learn to stop. Often it is masked together with the padding."
            )
        elif ends:
            out.append(f"{ends:,} of {n:,} rows end without an end-of-sequence token.")
        tokens, targets = int(self.tokens.sum()), int(self.targets.sum())
        out.append(
            f"A row has {np.median(self.tokens):,.0f} tokens in the median, {self.tokens.max():,} "
            f"at the most; {targets / max(1, tokens):.0%} of the {tokens:,} are targets."
        )
        if targets:
            mean = float((self.losses * self.targets).sum()) / targets
            out.append(f"The mean loss of a target token is {mean:.3f}.")
        return out


@dataclass(frozen=True)
class TokenRows:
    """n rows of tokens: ids and labels, int64[length] each; texts and answers to show; which were
    longer than the limit."""

    ids: Sequence[Ints]
    labels: Sequence[Ints]
    texts: Sequence[str]
    answers: Sequence[str] | None
    cut: Bools


def limit_of(model: nn.Module, max_length: int | None) -> int:
    """Returns how many tokens of a row are looked at.

    Raises:
        ConfigError: if the model has no positions for `max_length`.
    """
    config = getattr(model, "config", None)
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if max_length is None:
        return LIMIT if most is None else min(LIMIT, int(most))
    if most is not None and max_length > most:
        raise ConfigError(f"max_length is {max_length}, but the model has {most} positions")
    return max_length


def token_rows(dataset: Any, tokenizer: Any, limit: int, text: str = "text") -> TokenRows:
    """Reads rows as a language model is trained on them.

    Args:
        dataset: with the column `input_ids`, and `labels` or a mask of targets (`completion_mask`,
            `assistant_masks`), as a trainer has it; or `messages`, `prompt` and `completion`, or
            texts. An end-of-sequence token is put behind completions and texts, as TRL does.
        tokenizer: the model's.
        limit: tokens that are kept of a row.
        text: the column of texts.

    Raises:
        DataError: if there are none of these columns.
    """
    have = names_of(dataset)
    if "input_ids" in have:
        found = _tokenized(dataset, have)
    elif "messages" in have:
        found = _chats(column(dataset, "messages"), tokenizer)
    elif {"prompt", "completion"} <= set(have):
        pairs = zip(column(dataset, "prompt"), column(dataset, "completion"), strict=True)
        found = [_answered(a, b, tokenizer) for a, b in pairs]
    elif text in have:
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        every = [[*_ids(tokenizer, str(x or "")), *end] for x in column(dataset, text)]
        found = [(ids, ids) for ids in every]
    else:
        raise DataError(
            "a language model's rows have input_ids, messages, prompt and completion, or "
            f"{text!r}; there are {', '.join(map(repr, have))}"
        )
    if not found:
        raise DataError("the data set is empty: expected a row per example")
    ids = [np.asarray(row, dtype=np.int64) for row, _ in found]
    labels = [np.asarray(row, dtype=np.int64) for _, row in found]
    for i, (a, b) in enumerate(zip(ids, labels, strict=True)):
        if len(a) != len(b) or a.ndim != 1:
            raise DataError(f"row {i} has {a.shape} input_ids and {b.shape} labels")
    prompts = [row[: _first_target(y)][:limit] for row, y in zip(ids, labels, strict=True)]
    rest = [row[len(p) : limit] for row, p in zip(ids, prompts, strict=True)]
    said = [_decoded(tokenizer, part) for part in (prompts, rest)]
    plain = not any(said[0])
    return TokenRows(
        [row[:limit] for row in ids],
        [row[:limit] for row in labels],
        said[1] if plain else said[0],
        None if plain else said[1],
        np.asarray([len(row) > limit for row in ids]),
    )


@torch.inference_mode()
def look_at(
    model: nn.Module,
    rows: TokenRows,
    limit: int,
    tell: Callable[[float], None] = lambda share: None,
) -> Answered:
    """Runs every row through the model once, in eval mode.

    Args:
        model: a causal language model.
        rows: of tokens.
        limit: that they were cut at.
        tell: is told the share that is done.
    """
    head, device = Tokens(shift=True), next(model.parameters()).device
    tokens = np.asarray([len(row) for row in rows.ids], dtype=np.int64)
    n = len(tokens)
    losses, sizes = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float64)
    targets, whole = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    ends = torch.tensor(ends_of(model), dtype=torch.int64)
    order, start, training = np.argsort(tokens, kind="stable"), 0, model.training
    model.eval()
    try:
        while start < n:
            count = 1
            while (
                start + count < n
                and count < _ROWS
                and (count + 1) * tokens[order[start + count]] <= _TOKENS
            ):
                count += 1
            index = order[start : start + count]
            start += count
            labels = _padded([rows.labels[i] for i in index], IGNORED)
            targets[index] = head.count(labels).numpy()
            whole[index] = ended(labels, ends).numpy()
            ids, mask = (
                _padded(parts, 0)
                for parts in (
                    [rows.ids[i] for i in index],
                    [np.ones(len(rows.ids[i]), dtype=np.int64) for i in index],
                )
            )
            if ids.shape[1]:
                out = model(input_ids=ids.to(device), attention_mask=mask.to(device))
                loss, size = head.both(out, {"labels": labels})
                losses[index], sizes[index] = loss.float().cpu().numpy(), size.cpu().numpy()
            tell(start / n)
    finally:
        model.train(training)
    cut = rows.cut | cut_rows(tokens, whole)
    return Answered(tokens, targets, losses, sizes, whole if len(ends) else None, cut, limit)


def _padded(rows: Sequence[Ints], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    out = torch.full((len(rows), width), fill, dtype=torch.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row)
    return out


def _first_target(labels: Ints) -> int:
    found = np.flatnonzero(labels != IGNORED)
    return int(found[0]) if len(found) else len(labels)


def _ids(tokenizer: Any, text: str, **more: Any) -> list[int]:
    return list(tokenizer(text, verbose=False, **more)["input_ids"])


def _decoded(tokenizer: Any, rows: Sequence[Ints]) -> list[str]:
    """Returns the texts of rows; their numbers where there is no tokenizer."""
    if tokenizer is None:
        return [" ".join(map(str, row.tolist())) for row in rows]
    return [str(tokenizer.decode(row.tolist(), skip_special_tokens=True)) for row in rows]


def _tokenized(dataset: Any, have: Sequence[str]) -> list[tuple[Any, Any]]:
    """Returns token ids and targets of rows that hold token ids already."""
    ids = list(column(dataset, "input_ids"))
    if "labels" in have:
        return list(zip(ids, column(dataset, "labels"), strict=True))
    masks = [list(column(dataset, k)) for k in ("completion_mask", "assistant_masks") if k in have]
    out = []
    for i, row in enumerate(ids):
        labels = np.array(row, dtype=np.int64)
        for mask in masks:
            labels[np.asarray(mask[i]) == 0] = IGNORED
        out.append((row, labels))
    return out


def _chats(chats: Any, tokenizer: Any) -> list[tuple[Any, Any]]:
    """Returns whole conversations as token ids and targets; what the assistant says is the target
    if the template marks it."""
    out = []
    for chat in chats:
        made = tokenizer.apply_chat_template(
            list(chat), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = np.asarray(made["input_ids"]), np.asarray(made.get("assistant_masks", []))
        out.append((ids, np.where(mask == 1, ids, IGNORED) if mask.any() else ids))
    return out


def _answered(prompt: Any, completion: Any, tokenizer: Any) -> tuple[list[int], list[int]]:
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise DataError(
            f"a prompt is a {type(prompt).__name__} and a completion a "
            f"{type(completion).__name__}; expected texts. Conversations: give them as `messages`, "
            "or the trainer's own data set (trainer.train_dataset), which has input_ids"
        )
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    first = _ids(tokenizer, prompt)
    if first and end and first[-1] == end[0]:  # some tokenizers put one behind every text
        first = first[:-1]
    rest = [*_ids(tokenizer, completion, add_special_tokens=False), *end]
    return [*first, *rest], [IGNORED] * len(first) + rest
