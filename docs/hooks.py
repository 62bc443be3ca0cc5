"""Puts the help of the commands into the pages, so that it is written down in one place alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

MARK = re.compile(r"<!-- help: finesieve (\w*) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each mark by what the command says with `--help`."""
    return MARK.sub(lambda found: f"```text\n{help_of(found[1])}```", markdown)


def help_of(command: str) -> str:
    """Return what `finesieve COMMAND --help` prints, in lines of 90 characters."""
    words = [word for word in (command, "--help") if word]
    start = "from finesieve.cli.main import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "90"},
        check=True,
    )
    return done.stdout
