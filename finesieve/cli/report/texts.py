"""The texts of a run's training data, if they are still what the run read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from finesieve.cli.results import Record
from finesieve.errors import FinesieveError


@dataclass(frozen=True)
class Texts:
    """Labels and texts by row.

    Args:
        rows: row -> label and text.
        missing: why there are none, or an empty string.
    """

    rows: Mapping[int, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def told(self) -> str:
        """Returns a sentence on why there are no texts, or an empty string."""
        return f" Without texts: {self.missing}." if self.missing else ""

    def of(self, row: int) -> str:
        """Returns the text of a row, or an empty string."""
        return self.rows.get(row, "")


def texts_of(record: Record, found: dict[str, Texts]) -> Texts:
    """Return the texts of a run's training data.

    Texts of data that have changed since would be other examples' texts: they are left out.

    Args:
        record: of the run.
        found: texts of other runs, by what they read; the same data are read once. Added to.
    """
    c, data = record["config"], record.get("data") or {}
    # Settings that are younger than the record have their defaults.
    names = ("text", "text_pair", "label", "keep_empty", "unlabelled", "task", "label_names")
    given = {k: c[k] for k in names if k in c}
    key = json.dumps([c["train"], given, data.get("digest")])
    if key not in found:
        found[key] = _read(c["train"], given, data.get("digest"))
    return found[key]


def _read(source: str, given: Mapping[str, object], digest: str | None) -> Texts:
    from finesieve.cli.data.readers import READERS
    from finesieve.cli.data.table import load

    if digest is None:
        return Texts(missing=f"the run did not keep a digest of {source} to check them by")
    try:
        table = load(source, **given, split="train")  # type: ignore[arg-type]
    except (FinesieveError, OSError) as error:
        return Texts(missing=f"{source} cannot be read from here ({error})")
    if table.digest != digest:
        return Texts(missing=f"{source} has changed since the run, so its rows are other examples")
    reader, words = READERS[str(given.get("task", "classification"))], table.words
    return Texts(
        {
            row: reader.shown(table.labels[i], table.texts[i], words[i] if words else None)
            for i, row in enumerate(table.rows)
        }
    )
