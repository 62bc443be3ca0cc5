"""Runs Python in processes of its own that find the slow imports made already.

A process that imports torch and Hugging Face's libraries spends seconds on that. Here one server
for each test process imports them once, and what is run is forked from it, so each run still has
modules, random generators and settings of its own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Missing ones are left out by the server; what a run needs it says itself.
_MODULES = ("torch", "transformers.trainer", "accelerate")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_MODULES))
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """What is to be run: a module with its words, as by `python -m`.

    env: set beside the environment of the tests.
    """

    module: str
    words: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def _child(run: Run, env: dict[str, str], files: tuple[str, str]) -> None:
    gc.freeze()  # what was imported before is not looked through again
    for number, name in zip((1, 2), files, strict=True):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(_ROOT)
    import torch

    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", "1")))
    warnings.resetwarnings()
    sys.argv = [run.module, *run.words]
    sys.path[:0] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), str(_ROOT)]
    try:
        runpy.run_module(run.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None


def together(*runs: Run, timeout: float = 120.0) -> list[subprocess.CompletedProcess[str]]:
    """Runs all at the same time; gives what each printed and its exit status.

    timeout: seconds that each may take; one that takes longer is ended, and the status says so.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        started = []
        for i, run in enumerate(runs):
            files = (f"{folder}/{i}.out", f"{folder}/{i}.err")
            env = {**os.environ, **run.env}
            process = _context.Process(target=_child, args=(run, env, files))
            process.start()
            stack.enter_context(_ending(process))
            started.append((run, process, files))
        done = []
        for run, process, files in started:
            process.join(timeout)
            status = process.exitcode
            out, err = (Path(f).read_text() if Path(f).exists() else "" for f in files)
            if status is None:
                status, err = -9, err + f"\nno end within {timeout} s"
            done.append(subprocess.CompletedProcess([repr(run)], status, out, err))
        return done


@contextlib.contextmanager
def _ending(process: Any) -> Iterator[None]:
    try:
        yield
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


def last_lines(*runs: Run) -> list[Any]:
    """Runs all at the same time; gives the last line that each printed, read as JSON."""
    ends = together(*runs)
    for end in ends:
        assert end.returncode == 0, end.stderr
    return [json.loads(end.stdout.strip().splitlines()[-1]) for end in ends]
