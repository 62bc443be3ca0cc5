"""The names of labels that data hold as numbers: given by the user, or found in a file's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finesieve.errors import DataError

_KEYS = ("label_names", "names", "id2label")
Row = dict[str, Any]


def read_names(given: str) -> list[str]:
    """Return the names that `--label-names` gives, by their numbers.

    Args:
        given: names with commas between them, or a file: a name a line, a JSON list, or a JSON
            object with `label_names`, `names`, or `id2label` as a model's config.json has it.

    Raises:
        DataError: for a file that is none of these, and for names that repeat.
    """
    path = Path(given)
    if not path.is_file():
        if "," not in given:
            raise DataError(
                f"--label-names: no file {given}; expected a file, or names like O,B-PER,I-PER"
            )
        names = [name.strip() for name in given.split(",")]
    else:
        try:
            content = path.read_text(encoding="utf-8-sig")
            names = _of_json(given, json.loads(content)) if content.lstrip()[:1] in "{[" else []
        except (OSError, ValueError) as error:
            raise DataError(f"--label-names: cannot read {given}: {error}") from None
        names = names or [line.strip() for line in content.splitlines() if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(names) < 2 or not all(names):
        what = f"{twice[0]!r} twice" if twice else f"{len(names)} names, {names[:3]}"
        raise DataError(f"--label-names {given} has {what}; expected two names or more, each once")
    return names


def _of_json(given: str, found: Any) -> list[str]:
    if isinstance(found, dict):
        found = next((found[key] for key in _KEYS if key in found), None)
    if isinstance(found, dict) and sorted(found, key=str) == sorted(map(str, range(len(found)))):
        found = [found[str(i)] for i in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(
            f"--label-names: {given} is JSON without a list of names; expected a list, or an "
            f"object with {', '.join(_KEYS)}"
        )
    return found


def names_of_lists(schema: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return column -> names, of the columns of lists whose numbers have names in the metadata that
    the library `datasets` writes into Parquet files.

    Args:
        schema: metadata of the file's schema.
    """
    try:
        about = json.loads((schema or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"]
        found = {
            column: (one.get("feature") or {}).get("names") or []
            for column, one in features.items()
            if isinstance(one, dict)
        }
    except (ValueError, KeyError, AttributeError, TypeError):
        return {}
    return {column: list(names) for column, names in found.items() if names}


def put_names(rows: list[Row], names: Mapping[str, list[str]]) -> list[Row]:
    """Replace the numbers in columns of lists by their names, in place; return the rows."""
    for column, classes in names.items():
        for row in rows:
            if isinstance(row.get(column), list):
                row[column] = [
                    classes[x] if isinstance(x, int) and 0 <= x < len(classes) else x
                    for x in row[column]
                ]
    return rows
