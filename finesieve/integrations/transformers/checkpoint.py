"""Where a Trainer's checkpoint keeps a sieve's state: a file for each rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finesieve.errors import StateError


def _file(folder: Path, args: Any) -> Path:
    return folder / f"finesieve-rank{args.process_index}.pt"


def write(folder: Path, args: Any, state: dict[str, Any]) -> None:
    """Writes this rank's state into the folder of a checkpoint.

    Args:
        args: the trainer's.
    """
    torch.save({"ranks": args.world_size, **state}, _file(folder, args))


def read(folder: Path, args: Any) -> dict[str, Any]:
    """Returns this rank's state from the folder of a checkpoint.

    Raises:
        StateError: if there is none, or other ranks wrote it.
    """
    path = _file(folder, args)
    if not path.exists():
        raise StateError(
            f"{folder} has no {path.name}: it was saved without a sieve, or by fewer ranks; "
            "resume it without one"
        )
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["ranks"] != args.world_size:
        raise StateError(
            f"{path} was saved by a run of {state['ranks']} ranks, this one has "
            f"{args.world_size}: each goes on with its own part of the data"
        )
    return state
