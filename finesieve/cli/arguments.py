"""Parses the words of one command, and names the nearest option where one is misspelt."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any


class Parser(argparse.ArgumentParser):
    """Parses one command.

    argparse speaks of required options before unknown ones, so `--trian x` would be told that
    `--train` is missing.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Refuses an option that the command does not have, then does as argparse does."""
        known = sorted({"--help", *re.findall(r"--[a-z][a-z-]*", self.format_usage())})
        for word in takewhile(lambda word: word != "--", args or ()):
            name = word.split("=")[0]
            if name.startswith("--") and not any(one.startswith(name) for one in known):
                bare = [one[2:] for one in known]  # the dashes would make all names look alike
                near = get_close_matches(name[2:], bare, n=1, cutoff=0.7)
                hint = f"did you mean --{near[0]}?" if near else f"`{self.prog} --help` lists them"
                self.error(f"no option {name}; {hint}")
        return super().parse_known_args(args, namespace)
