"""Result files of benchmarks: one JSON a run, whole, of this format and unedited, or left out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = 1
Record = dict[str, Any]


def seal(record: Mapping[str, Any]) -> str:
    """Returns a digest of everything in the record but itself; an edited file no longer fits it."""
    body = {k: v for k, v in record.items() if k != "seal"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def write_record(path: Path, record: Record) -> Record:
    """Adds format and seal, and writes the file whole or not at all; returns what was written."""
    full = {"format": FORMAT, **record}
    full["seal"] = seal(full)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    return full


def read_record(path: Path) -> tuple[Record | None, str]:
    """Returns (record, "") or (None, what is wrong with the file)."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None, f"{path.name} is half-written or no JSON"
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        return None, f"{path.name} has format {found!r}; this version reads {FORMAT}"
    if record.get("seal") != seal(record):
        return None, f"{path.name} was edited after it was written: its seal does not fit"
    return record, ""


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """Returns all sound records below a folder, and a complaint for each file left out."""
    records, complaints = [], []
    for path in sorted(folder.rglob("*.json")):
        record, wrong = read_record(path)
        if record is None:
            complaints.append(wrong)
        else:
            records.append(record)
    return records, complaints


def pack_examples(loss: npt.ArrayLike, right: npt.ArrayLike | None = None) -> dict[str, Any]:
    """Returns an evaluation, example by example, in little room: losses float[n] as float16,
    bool[n] as bits, which a regression has not."""
    packed = {"loss": base64.b64encode(np.asarray(loss, dtype="<f2").tobytes()).decode()}
    if right is not None:
        bits = np.packbits(np.asarray(right, dtype=bool))
        packed["right"] = base64.b64encode(bits.tobytes()).decode()
    return packed


def unpack_examples(packed: Mapping[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns losses, float64[n], and which predictions were right, bool[n]; bool[0] of a
    regression."""
    loss = np.frombuffer(base64.b64decode(packed["loss"]), dtype="<f2").astype(np.float64)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed.get("right", "")), dtype=np.uint8))
    return loss, bits[: len(loss)].astype(bool)
