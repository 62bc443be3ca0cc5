"""`finesieve inspect --language-model`: reads rows as they are and looks at their tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

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
    return look_at_answers(
        model,
        tokenizer,
        rows,
        name=Path(args.train).name,
        text=args.text or "text",
        max_length=args.max_length,
        seed=args.seed,
        tell=tell,
    )
