"""`finesieve inspect --language-model`: reads rows as they are and looks at their tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finesieve.cli.data.table import rows_of
from finesieve.cli.training.models import load_language_model, load_tokenizer, pick_device
from finesieve.errors import ConfigError
from finesieve.insight.insights import Insights
from finesieve.insight.inspecting import look_at_answers


def inspect_answers(args: argparse.Namespace, tell: Callable[[str, float], None]) -> Insights:
    """Reads the rows and looks at them with a causal language model, which is not trained.

    Args:
        args: of the command.
        tell: is told what is done, and the share of it.

    Raises:
        ConfigError: for options that are for classifiers.
        DataError: for rows that hold nothing to train a language model on.
    """
    wrong = {"--label": args.label, "--text-pair": args.text_pair}
    given = [name for name, value in wrong.items() if value is not None]
    if given:
        raise ConfigError(
            f"{' and '.join(given)}: a language model's rows have no such column; expected "
            "`messages`, `prompt` and `completion`, or texts (--text)"
        )
    tokenizer = load_tokenizer(args.model, pads=False)
    model = load_language_model(args.model).to(pick_device(args.device))
    rows, _ = rows_of(args.train)
    some = drawn(len(rows), args.limit, args.seed)
    notes = []
    if some is not None:
        notes = [told(len(some), len(rows))]
        rows = [rows[i] for i in some.tolist()]
    return look_at_answers(
        model,
        tokenizer,
        rows,
        name=Path(args.train).name,
        text=args.text or "text",
        max_length=args.max_length,
        seed=args.seed,
        numbers=some,
        notes=notes,
        tell=tell,
    )


def told(some: int, of: int) -> str:
    """Returns a sentence that says how many rows are looked at."""
    return f"{some:,} of {of:,} rows were looked at, chosen at random."


def drawn(n: int, limit: int | None, seed: int) -> npt.NDArray[np.int64] | None:
    """Returns the places of the rows that are looked at, int64[limit], in order; None for all."""
    if limit is None or limit >= n:
        return None
    return np.sort(np.random.default_rng([seed, 86]).permutation(n)[:limit])
