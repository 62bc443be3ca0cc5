"""The built-in dataset: which library does this docstring come from?

Made from the source of installed dependencies, parsed with `ast` and never imported. Names that
would give the answer away are masked. Deterministic for given versions of the libraries; cached.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from finesieve.errors import DataError, install

# import name -> distribution name. All come with the extra `demo`.
LIBRARIES = {"torch": "torch", "transformers": "transformers", "sympy": "sympy", "scipy": "scipy"}
MOST = 8000  # examples of a library
_VERSION = 1
_MIN_WORDS, _MAX_CHARS = 4, 600

# Names and the aliases under which examples in docstrings import them.
_NAMES = re.compile(
    r"pytorch|torch\w*|aten|transformers?|hugging\s*_?face(?:_hub)?|sympy|scipy|scikit[-_ ]?learn"
    r"|scikit|sklearn|numpy|networkx|\b(?:np|nx|sp|npt|hf|tf)\b",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Returns a text with library names replaced by `_` and blanks joined, cut to 600 characters at
    a word's end."""
    text = re.sub(r"\s+", " ", _NAMES.sub("_", text)).strip()
    if len(text) > _MAX_CHARS:
        text = text[:_MAX_CHARS].rsplit(" ", 1)[0]
    return text


def _docstrings(path: str) -> list[str]:
    """Returns every docstring of a source file, in order; none from a file that does not parse."""
    try:
        source = Path(path).read_text(encoding="utf-8")
        if '"""' not in source and "'''" not in source:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    found = []
    stack: list[ast.AST] = [tree]
    while stack:  # only bodies can hold definitions: expressions need no visit
        node = stack.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found.append(inspect.cleandoc(first.value.value))
            stack.extend(reversed(node.body))
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            stack.extend(reversed(node.body))
    return found


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the built-in dataset needs the source of {name!r}, which is not installed: "
            + install("demo")
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _texts(name: str, most: int) -> list[str]:
    """Return up to `most` different masked docstrings of one library, files in hashed order."""
    folder = _package_folder(name)
    files = [p for p in folder.rglob("*.py") if not {"tests", "test"} & set(p.parts)]
    # Hashed order: an even sample of the whole library, the same on every machine.
    files.sort(key=lambda p: hashlib.sha1(p.relative_to(folder).as_posix().encode()).digest())
    texts: dict[str, None] = {}
    for file in files:
        for text in _docstrings(str(file)):
            text = masked(text)
            if len(text.split()) >= _MIN_WORDS:
                texts.setdefault(text)
        if len(texts) >= most:
            break
    return list(texts)[:most]


def _texts_apart(name: str) -> list[str]:
    """Returns what `_texts` does, from a process of its own: this one may have threads running and
    a main module that must not be imported again, so neither a fork nor a spawned pool would do."""
    code = f"import json, {__name__} as d; print(json.dumps(d._texts({name!r}, {MOST})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"reading the docstrings of {name} failed: {last}")
    texts: list[str] = json.loads(done.stdout)
    return texts


def _versions() -> dict[str, str]:
    try:
        return {n: importlib.metadata.version(d) for n, d in sorted(LIBRARIES.items())}
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            f"the built-in dataset needs {error.name!r}, which is not installed: " + install("demo")
        ) from None


def _build() -> list[dict[str, Any]]:
    def say(text: str) -> None:
        print(f"docstrings: {text}", file=sys.stderr, flush=True)

    start = time.monotonic()
    say(f"reading the source of {', '.join(LIBRARIES)}, once; about 20 seconds ...")
    found = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = {pool.submit(_texts_apart, name): name for name in LIBRARIES}
        for done in as_completed(jobs):
            found[jobs[done]] = done.result()
            say(
                f"{len(found)} of {len(LIBRARIES)}: {len(done.result()):,} texts of {jobs[done]} "
                f"({time.monotonic() - start:.0f} s)"
            )
    found = {name: found[name] for name in LIBRARIES}
    owners: dict[str, set[str]] = {}
    for name, texts in found.items():
        for text in texts:
            owners.setdefault(text, set()).add(name)
    rows = []
    for text, names in owners.items():
        if len(names) > 1:  # the same text in two libraries has no right answer
            continue
        digest = hashlib.sha1(text.encode()).hexdigest()
        part = "test" if int(digest[:8], 16) % 10 == 0 else "train"
        rows.append((digest, {"text": text, "label": next(iter(names)), "split": part}))
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def cache_folder() -> Path:
    """Returns the folder FINESIEVE_CACHE, or finesieve below the user's cache folder."""
    if "FINESIEVE_CACHE" in os.environ:
        return Path(os.environ["FINESIEVE_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finesieve"


def rows(part: str = "train") -> list[dict[str, Any]]:
    """Return rows {"text", "label"}.

    Args:
        part: the split, `train` or `test` (a tenth, by hash of the text); or some libraries alone,
            joined by "+", as in "sympy+transformers" and "sympy+transformers/test".

    Raises:
        DataError: for anything else.
    """
    some, _, split = part.rpartition("/") if "/" in part else ("", "", part)
    if not some and split not in ("train", "test"):
        some, split = split, "train"
    wanted = set(some.split("+")) if some else set(LIBRARIES)
    if split not in ("train", "test") or not wanted <= set(LIBRARIES) or len(wanted) < 2:
        raise DataError(
            f"docstrings has no part {part!r}; expected 'train', 'test', or two or more of "
            f"{', '.join(LIBRARIES)} as in 'sympy+transformers' or 'sympy+transformers/test'"
        )
    path = cache_folder() / f"docstrings-{_key()}.jsonl.gz"
    if not path.exists():
        _write(path)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        every = [json.loads(line) for line in lines]
    return [
        {"text": r["text"], "label": r["label"]}
        for r in every
        if r["split"] == split and r["label"] in wanted
    ]


def _key() -> str:
    """Return what the dataset depends on, as a digest."""
    return hashlib.sha1(json.dumps([_VERSION, MOST, _versions()]).encode()).hexdigest()[:12]


def _write(path: Path) -> None:
    """Build the dataset and write it, all or not at all, and say so meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = _build()
    # Written beside and moved: two processes at once both end with a whole file.
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
        for row in made:
            out.write((json.dumps(row) + "\n").encode())
    os.replace(temporary, path)
