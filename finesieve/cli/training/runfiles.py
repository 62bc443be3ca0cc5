"""The output folder: what a run writes, and how a checkpoint is kept whole."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finesieve.cli.tasks.targets import Scale
from finesieve.cli.training.models import quiet_transformers
from finesieve.cli.training.unit import rescale
from finesieve.errors import ConfigError, FinesieveWarning, StateError

SUMMARY, LOG, EXAMPLES, CHECKPOINT = (
    "summary.json",
    "run.jsonl",
    "examples.parquet",
    "checkpoint.pt",
)
CHECKPOINT_VERSION = 3
VERDICTS = ("unseen", "trained", "skipped-backward", "skipped-forward", "kept-out")


class RunFolder:
    """The output folder of one run.

    Args:
        path: where.
        resume: whether a run in it goes on.

    Raises:
        ConfigError: for a folder in use.
        StateError: if there is nothing to resume.
    """

    def __init__(self, path: str, resume: bool) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output {path} is a file; expected a folder, new or empty")
        in_use = self.path.is_dir() and any(self.path.iterdir())
        has_run = any((self.path / name).exists() for name in (SUMMARY, LOG, CHECKPOINT))
        if resume:
            if not (self.path / CHECKPOINT).exists():
                done = (self.path / SUMMARY).exists()
                raise StateError(
                    f"nothing to resume: {path} has no {CHECKPOINT}"
                    + ("; the run in it is complete" if done else ": leave out --resume to begin")
                )
        elif has_run:
            unfinished = (self.path / CHECKPOINT).exists()
            raise ConfigError(
                f"output folder {path} holds another run"
                + (
                    " that was interrupted: add --resume to go on with it, or"
                    if unfinished
                    else ":"
                )
                + " choose another folder, or remove it"
            )
        elif in_use:
            raise ConfigError(f"output folder {path} is not empty: choose another, or empty it")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make output folder {path}: {error}") from None

    # ---- log

    def trim_log(self, length: int) -> None:
        """Cut off what was logged after the checkpoint: it will be logged again."""
        log = self.path / LOG
        if log.exists():
            with log.open("r+b") as file:
                file.truncate(length)

    def log_length(self) -> int:
        """Returns the length of the log, in bytes."""
        log = self.path / LOG
        return log.stat().st_size if log.exists() else 0

    def log(self, event: dict[str, Any]) -> None:
        """Appends an event to the log."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")

    # ---- results

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes the summary as JSON."""
        _write(self.path / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")

    def write_examples(self, columns: dict[str, Any]) -> None:
        """Writes one row for each example as Parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        temporary = self.path / (EXAMPLES + ".part")
        pq.write_table(pa.table(columns), temporary)
        os.replace(temporary, self.path / EXAMPLES)

    def save_model(
        self,
        model: Any,
        tokenizer: Any,
        scale: Scale | None = None,
        probe: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Writes `model/`, for `from_pretrained`.

        Adapters (PEFT) are merged into its weights there, and `adapter/` has them by themselves;
        the model given is of no use afterwards.

        Args:
            scale: of a regression's targets: the saved model predicts in the labels' own unit. A
                warning says so if that cannot be.
            probe: a batch without labels, with `scale`.
        """
        with quiet_transformers():
            if hasattr(model, "peft_config"):
                # The vocabulary is the base model's: no look at the hub for whether it is.
                model.save_pretrained(self.path / "adapter", save_embedding_layers=False)
                model = model.merge_and_unload()
            if scale is not None and not rescale(model, scale.std, scale.mean, probe or {}):
                model.config.label_mean, model.config.label_std = scale.mean, scale.std
                warnings.warn(
                    f"the saved model predicts (label - {scale.mean:g}) / {scale.std:g}, since its "
                    "last layer has no bias that could take the mean: multiply and add "
                    "(`label_std` and `label_mean` in its config.json)",
                    FinesieveWarning,
                    stacklevel=2,
                )
            model.save_pretrained(self.path / "model")
        tokenizer.save_pretrained(self.path / "model")

    # ---- checkpoint

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes a checkpoint, beside and then moved into place: an interruption leaves the earlier
        one whole."""
        temporary = self.path / (CHECKPOINT + ".part")
        torch.save({"version": CHECKPOINT_VERSION, **state}, temporary)
        os.replace(temporary, self.path / CHECKPOINT)

    def load_checkpoint(self, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the checkpoint.

        Raises:
            StateError: if it is damaged or of another configuration.
        """
        path = self.path / CHECKPOINT
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged pickles raise anything, KeyError included
            first = str(error).strip().split("\n")[0]
            raise StateError(f"{path} is damaged or no checkpoint: {first}") from None
        if not isinstance(state, dict) or state.get("version") != CHECKPOINT_VERSION:
            found = state.get("version") if isinstance(state, dict) else None
            raise StateError(
                f"{path} has checkpoint version {found}; this finesieve reads "
                f"{CHECKPOINT_VERSION}: resume it with the version that wrote it"
            )
        theirs = json.loads(state.get("config", "{}"))
        ours = json.loads(json.dumps(config))
        differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if differ:
            shown = "; ".join(f"{k}: {theirs.get(k)!r} then, {ours.get(k)!r} now" for k in differ)
            raise StateError(
                f"{path} is of another configuration ({shown}): resume with the same settings"
            )
        return state

    def drop_checkpoint(self) -> None:
        """Removes the checkpoint."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)


class ExampleLog:
    """Per example and epoch: what was foreseen, found and decided. A listener of the sieve.

    Args:
        examples: how many there are; the sieve's ids are 0 to examples - 1.
        epoch: the present one.
    """

    FLOATS = ("predicted", "loss", "weight")

    def __init__(self, examples: int, epochs: int) -> None:
        self.examples, self.epoch = examples, 0
        total = examples * epochs
        self.stage = np.zeros(total, dtype=np.int8)
        self.verdict = np.zeros(total, dtype=np.int8)
        self.values = {k: np.full(total, np.nan, dtype=np.float32) for k in self.FLOATS}

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes in an event of the sieve."""
        if "ids" not in event:
            return
        ids = event["ids"] + self.epoch * self.examples
        if event["event"] == "open":  # trained on, with weight 1
            self.stage[ids], self.verdict[ids] = event["stage"], VERDICTS.index("trained")
            self.values["weight"][ids] = 1.0
        elif event["event"] == "trained":
            loss = event["loss"]
            missing = np.isnan(self.values["loss"][ids])
            self.values["loss"][ids[missing]] = loss[missing]
            out = ids[~np.isfinite(loss)]
            self.verdict[out] = VERDICTS.index("kept-out")
            self.values["weight"][out] = 0.0
        elif event["event"] == "pool":
            weight = event["weight"]
            self.stage[ids] = event["stage"]
            for name in self.FLOATS:
                self.values[name][ids] = event[name]
            verdict = np.where(
                weight > 0,
                VERDICTS.index("trained"),
                np.where(
                    event["scored"],
                    VERDICTS.index("skipped-backward"),
                    VERDICTS.index("skipped-forward"),
                ),
            )
            verdict[event["kept_out"]] = VERDICTS.index("kept-out")
            self.verdict[ids] = verdict

    def columns(self, rows: Any, orders: list[Any]) -> dict[str, Any]:
        """Returns the columns of examples.parquet, in the order drawn; NaN becomes null.

        Args:
            rows: int64[examples], each one's row in its source.
            orders: the ids of each epoch as drawn.
        """
        import pyarrow as pa

        drawn = np.concatenate([order + e * self.examples for e, order in enumerate(orders)])
        seen = drawn[self.verdict[drawn] > 0]
        out: dict[str, Any] = {
            "row": pa.array(rows[seen % self.examples]),
            "epoch": pa.array((seen // self.examples + 1).astype(np.int16)),
            "stage": pa.array(self.stage[seen]),
            "verdict": pa.array(np.asarray(VERDICTS, dtype=object)[self.verdict[seen]]),
        }
        for name in self.FLOATS:
            values = self.values[name][seen]
            out[name] = pa.array(values, mask=~np.isfinite(values))
        return out

    def state_dict(self) -> dict[str, Any]:
        """Returns what `load_state_dict` takes up, as tensors and plain types."""
        named: dict[str, Any] = {"stage": self.stage, "verdict": self.verdict, **self.values}
        return {k: torch.from_numpy(v.copy()) for k, v in named.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` returned."""
        self.stage, self.verdict = state["stage"].numpy(), state["verdict"].numpy()
        self.values = {k: state[k].numpy() for k in self.FLOATS}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
