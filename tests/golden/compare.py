"""What a record of a golden run holds, where it was made, and when two records are the same."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

RTOL, ATOL = 1e-4, 1e-5  # between different processors or versions of torch and numpy
_SIMD = ("sse", "ssse", "avx", "fma", "amx", "f16c", "asimd", "sve", "neon")


@dataclass(frozen=True)
class Record:
    """What one run did.

    ids: int64[n], all examples trained on, in order; -1 for one of a filler.
    shapes: int64[b, 2], how many of them each batch has, and how many tokens wide it is.
    weights: float32[n], of the examples.
    stages: int64[k, 2], the stages entered, and how many examples had been drawn before each.
    counts: int64[3], examples drawn, scored and trained on.
    parameters: float32[p], of the model after the run, one after the other.
    """

    ids: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    stages: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    parameters: npt.NDArray[np.float32]


Fingerprint = dict[str, str]
_INEXACT = ("weights", "parameters")  # the rest has to be equal on every machine


def fingerprint(packages: Iterable[str] = ()) -> Fingerprint:
    """Return what rounding depends on: versions, the processor, and the kernels chosen for it.

    packages: further ones that take part in a run, such as transformers.
    """
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": hashlib.sha256(_processor().encode()).hexdigest()[:12],
        "torch": torch.__version__,
        "numpy": np.__version__,
        **{name: version(name) for name in packages},
    }


def _processor() -> str:
    """Return the processor's model and vector instructions; libraries choose kernels by both."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    names = [found.get(k, "") for k in ("vendor_id", "cpu family", "model", "model name")]
    flags = found.get("flags", found.get("Features", "")).split()
    return " ".join([*names, *sorted(flag for flag in flags if flag.startswith(_SIMD))])


def save(path: Path, record: Record, made: Fingerprint) -> None:
    """Write a record, and where it was made. Integers are stored as int32: they stay small."""
    arrays = {f.name: getattr(record, f.name) for f in fields(record)}
    small = {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, fingerprint=np.array(json.dumps(made)), **small)


def load(path: Path) -> tuple[Record, Fingerprint]:
    """Return a record and where it was made."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {f.name: file[f.name] for f in fields(Record)}
        made: Fingerprint = json.loads(str(file["fingerprint"]))
    wide = {k: v.astype(np.int64) if v.dtype == np.int32 else v for k, v in arrays.items()}
    return Record(**wide), made


def differences(recorded: Record, found: Record, exact: bool) -> list[str]:
    """Return one sentence for each field in which two records differ; none if they are the same.

    exact: whether weights and parameters must agree in every bit, as on the machine where the
        record was made; else within a relative 1e-4 or an absolute 1e-5.
    """
    told = []
    for field in (f.name for f in fields(Record)):
        old, new = getattr(recorded, field), getattr(found, field)
        if old.shape != new.shape or old.dtype != new.dtype:
            told.append(
                f"{field}: recorded {old.dtype}{list(old.shape)}, "
                f"found {new.dtype}{list(new.shape)}{_first(old, new)}"
            )
            continue
        if field not in _INEXACT:
            wrong = old != new
        elif exact:
            wrong = old.view(np.uint32) != new.view(np.uint32)
        else:
            wrong = ~np.isclose(new, old, RTOL, ATOL)
        if wrong.any():
            told.append(f"{field}: {int(wrong.sum())} of {wrong.size} differ{_first(old, new)}")
    return told


def _first(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> str:
    """Say where two arrays differ first."""
    old, new = (x.reshape(-1) for x in (old, new))
    n = min(len(old), len(new))
    places = np.flatnonzero(old[:n] != new[:n])
    at = int(places[0]) if len(places) else n
    values = [x[at].item() if at < len(x) else "nothing" for x in (old, new)]
    return f"; first at {at}: recorded {values[0]}, found {values[1]}"
