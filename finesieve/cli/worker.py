"""One benchmark run in a process of its own: reads a spec, writes a summary.

    python -m finesieve.cli.worker SPEC.json OUT.json

The output appears whole or not at all. A run that fails leaves {"failed": reason}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(spec_file: str, out_file: str, run: Callable[[Any], dict[str, Any]] | None = None) -> int:
    """Runs one spec; returns the exit status: 0 when a summary was written, 1 when a failure was.

    Args:
        spec_file: JSON with `config`, and `cpus` to run on.
        out_file: where the summary goes, or {"failed": reason}.
        run: config -> summary; `finesieve train` by default.
    """
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    if spec.get("cpus") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec["cpus"])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from finesieve.cli.config import Config
    from finesieve.cli.memory import keep_memory
    from finesieve.cli.training.train import train
    from finesieve.errors import FinesieveError

    keep_memory()

    try:
        given = spec["config"]
        config = Config(**{**given, "eval": tuple(given["eval"])})
        result = run(config) if run else train(config, None, quiet=True)
    except FinesieveError as error:
        result = {"failed": str(error)}
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError when out of memory
        result = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    part = Path(out_file + ".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, out_file)
    return int("failed" in result)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
