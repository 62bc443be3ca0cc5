"""What one pass over a data set found: tables, sentences, exports."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finesieve.errors import ConfigError
from finesieve.insight.curves import easiest_share
from finesieve.insight.data import Found
from finesieve.insight.page import SHOWN, page
from finesieve.insight.sentences import sentences
from finesieve.sieve.table import Table

Ints = npt.NDArray[np.int64]
ISSUES, EXAMPLES, LABELS, PROBABILITIES, PAGE = (
    "issues.csv",
    "examples.parquet",
    "labels.npy",
    "pred_probs.npy",
    "insights.html",
)
HARD = 100  # rows listed as the hardest


@dataclass(frozen=True)
class Insights(Found):
    """What `finesieve.inspect` returns: what was found, as tables, sentences, a page, exports."""

    # ---- tables

    @property
    def issues(self) -> Table:
        """The rows whose label looks wrong, worst first; `confirmed` is for a person to fill in."""
        judged, data = self.judged, self.data
        places = np.empty(0, dtype=np.int64) if judged is None else judged.issues
        names = [str(name) for name in data.names]
        other = self.contradicting if self.contradicting is not None else np.empty(0, np.int64)
        suggested = [] if judged is None else judged.suggested[places].tolist()
        columns: dict[str, Any] = {
            "row": data.rows[places].tolist(),
            **({} if data.ids is None else {"id": [data.ids[i] for i in places.tolist()]}),
            "confirmed": [""] * len(places),
            "text": [data.text(i) for i in places.tolist()],
            "given": [data.label(i) for i in places.tolist()],
            "suggested": [names[j] for j in suggested],
            "p_given": [] if judged is None else judged.given_probability[places].tolist(),
            "p_suggested": []
            if self.probabilities is None
            else self.probabilities[places, suggested].tolist(),
            "quality": [] if judged is None else judged.quality[places].tolist(),
            "contradicting_row": [int(data.rows[i]) if i >= 0 else None for i in other],
            "contradicting_text": [data.text(i) if i >= 0 else "" for i in other],
        }
        return Table(columns)

    @property
    def classes(self) -> Table:
        """One row for each class: its rows, estimated wrong labels and the upper end of their 95 %
        interval, error, and the share of its gradient that its easiest half carries."""
        data, judged = self.data, self.judged
        if data.labels is None:
            return Table({"class": []})
        counts = np.bincount(data.labels, minlength=len(data.names))
        columns: dict[str, Any] = {"class": [str(x) for x in data.names], "rows": counts.tolist()}
        if judged is not None and self.sizes is not None:
            wrong = judged.joint.sum(axis=1) - np.diag(judged.joint)
            # Scaled to the total, which is without the prior that each class starts from.
            wrong = wrong * (judged.wrong.value / max(wrong.sum(), 1e-12))
            most = np.ceil(np.maximum(wrong, judged.most)).astype(int)
            missed = np.bincount(
                data.labels[judged.suggested != data.labels], minlength=len(counts)
            )
            columns |= {
                "wrong_labels": np.round(wrong, 1).tolist(),
                "wrong_labels_at_most": most.tolist(),
                "error": (missed / np.maximum(counts, 1)).tolist(),
                "gradient_of_easiest_half": [
                    easiest_share(self.sizes[data.labels == k]) for k in range(len(counts))
                ],
            }
        return Table(columns)

    @property
    def confusion(self) -> Table:
        """Pairs of a given and a suggested label among the issues, the most frequent first."""
        found: dict[tuple[str, str], int] = {}
        issues = self.issues
        for pair in zip(issues["given"], issues["suggested"], strict=True):
            found[pair] = found.get(pair, 0) + 1
        order = sorted(found, key=lambda pair: -found[pair])
        return Table(
            {
                "given": [a for a, _ in order],
                "suggested": [b for _, b in order],
                "rows": [found[pair] for pair in order],
            }
        )

    @property
    def repeats(self) -> Table:
        """Groups of repeats, those with conflicting labels first, then the largest."""
        return self._repeats()

    @cached_property
    def _repeated(self) -> tuple[Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Rows in groups, in the order of the table, int64[m]; whether labels disagree in the group
        of each, and whether each has an exact copy, bool[m]."""
        data, near = self.data, self.near
        first, back, counts = np.unique(near, return_inverse=True, return_counts=True)
        members = np.flatnonzero(counts[back] > 1)
        labels = np.zeros(len(near), np.int64) if data.labels is None else data.labels
        low, high = np.full(len(first), len(data.names)), np.full(len(first), -1)
        np.minimum.at(low, back, labels)
        np.maximum.at(high, back, labels)
        conflict = (low != high)[back]
        order = members[
            np.lexsort((members, near[members], -counts[back[members]], ~conflict[members]))
        ]
        times = np.bincount(self.exact, minlength=len(near))
        return order, conflict[order], times[self.exact[order]] > 1

    def _repeats(self, most: int | None = None) -> Table:
        """Returns the first rows of `repeats`, `most` of them; of all, the texts take memory."""
        data = self.data
        order, conflict, exact = (part[:most] for part in self._repeated)
        groups = self.near[order]
        numbers = np.cumsum(np.r_[True, groups[1:] != groups[:-1]][: len(groups)])
        return Table(
            {
                "group": numbers.tolist(),
                "row": data.rows[order].tolist(),
                "kind": ["exact" if copied else "near" for copied in exact],
                "conflict": ["yes" if c else "" for c in conflict],
                "label": [data.label(i) for i in order],
                "text": [data.text(i) for i in order],
            }
        )

    @property
    def answers(self) -> Table:
        """A language model's rows without a target, cut, or without an end, in this order."""
        found, data = self.answered, self.data
        if found is None:
            return Table({"row": []})
        places = [(name, i) for name, rows in found.troubles.items() for i in np.flatnonzero(rows)]
        if found.whole is not None and not found.whole.any():  # said once, for all of them
            places = [(name, i) for name, i in places if name != "no end"]
        at = np.asarray([i for _, i in places], dtype=np.int64)
        return Table(
            {
                "row": data.rows[at].tolist(),
                "what": [name for name, _ in places],
                "tokens": found.tokens[at].tolist(),
                "targets": found.targets[at].tolist(),
                "loss": found.losses[at].tolist(),
                "text": [data.text(i) for i in at.tolist()],
            }
        )

    @property
    def hard(self) -> Table:
        """Rows with the largest gradient that are no label issues, the hardest first; a language
        model's by their loss."""
        data, judged = self.data, self.judged
        if self.answered is not None:
            at = np.argsort(-self.answered.losses, kind="stable")
            at = at[~np.isin(data.rows[at], self.answers["row"])][:HARD]
            return Table(
                {
                    "row": data.rows[at].tolist(),
                    "loss": self.answered.losses[at].tolist(),
                    "tokens": self.answered.tokens[at].tolist(),
                    "targets": self.answered.targets[at].tolist(),
                    "text": [data.text(i) for i in at.tolist()],
                }
            )
        if judged is None or self.sizes is None:
            return Table({"row": []})
        left = np.ones(len(data), dtype=bool)
        left[judged.issues] = False
        order = np.argsort(-self.sizes, kind="stable")
        order = order[left[order]][:HARD]
        never = self.unlearned
        return Table(
            {
                "row": data.rows[order].tolist(),
                "text": [data.text(i) for i in order],
                "given": [data.label(i) for i in order],
                "predicted": [str(data.names[j]) for j in judged.suggested[order]],
                "p_given": judged.given_probability[order].tolist(),
                "never_learned": ["yes" if never is not None and never[i] else "" for i in order],
            }
        )

    @property
    def texts(self) -> Table:
        """Empty texts, and texts longer than the model was shown."""
        return self._texts()

    @cached_property
    def _empty(self) -> npt.NDArray[np.bool_]:
        joined = self.data.joined
        return np.fromiter((not text.strip(" |") for text in joined), np.bool_, len(joined))

    def _texts(self, most: int | None = None) -> Table:
        """Returns the first rows of `texts`, `most` of them."""
        data = self.data
        cut = np.zeros(len(data), dtype=bool) if self.cut is None else self.cut
        places = np.flatnonzero(self._empty | cut)[:most]
        return Table(
            {
                "row": data.rows[places].tolist(),
                "what": ["empty" if self._empty[i] else "cut" for i in places.tolist()],
                "text": [data.text(i) for i in places.tolist()],
            }
        )

    @property
    def examples(self) -> Table:
        """One row an example, in the order of the source, with all that is known about it."""
        data, judged = self.data, self.judged
        columns: dict[str, Any] = {"row": data.rows}
        if data.ids is not None:
            columns["id"] = list(data.ids)
        if data.labels is not None:
            columns["label"] = [data.label(i) for i in range(len(data))]
        if judged is not None and self.sizes is not None and self.unlearned is not None:
            columns |= {
                "suggested": [str(data.names[j]) for j in judged.suggested],
                "p_given": judged.given_probability,
                "loss": -np.log(np.maximum(judged.given_probability, 1e-12)),
                "gradient_norm": self.sizes,
                "quality": judged.quality,
                "issue": np.isin(np.arange(len(data)), judged.issues),
                "never_learned": self.unlearned,
            }
        if self.first_losses is not None:
            columns["first_loss"] = self.first_losses
        if self.tokens is not None and self.cut is not None:
            columns |= {"tokens": self.tokens, "cut": self.cut}
        if self.answered is not None:
            columns |= {
                "tokens": self.answered.tokens,
                "targets": self.answered.targets,
                "loss": self.answered.losses,
                "gradient_norm": self.answered.sizes,
                "cut": self.answered.cut,
            }
            if self.answered.whole is not None:
                columns["ended"] = self.answered.whole
        columns |= {"repeats_row": data.rows[self.near], "copies_row": data.rows[self.exact]}
        return Table(columns)

    def to_pandas(self) -> Any:
        """Returns `examples` as a `pandas.DataFrame`."""
        return self.examples.to_pandas()

    # ---- what a person reads first

    def sentences(self) -> list[str]:
        """Returns what was found, the most useful first, one sentence each."""
        order, conflict, _ = self._repeated
        empty = int(self._empty.sum())
        long = 0 if self.cut is None else int((self.cut & ~self._empty).sum())
        conflicts = len(np.unique(self.near[order[conflict]]))
        return sentences(self, conflicts, empty, long)

    # ---- export

    def export(self, folder: str | Path) -> list[Path]:
        """Writes `issues.csv`, `examples.parquet` (if pyarrow is installed), `labels.npy` and
        `pred_probs.npy` (as cleanlab takes them) and the page; returns what was written."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        written = [target / PAGE]
        written[0].write_text(self.to_html(), encoding="utf-8")
        if self.judged is not None and self.probabilities is not None:
            np.save(target / LABELS, self.judged.given)
            np.save(target / PROBABILITIES, self.probabilities)
            issues = self.issues
            with (target / ISSUES).open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(list(issues))
                for record in issues.records():
                    writer.writerow([_cell(value) for value in record.values()])
            written += [target / LABELS, target / PROBABILITIES, target / ISSUES]
        try:
            table = self.examples.to_arrow()
        except ConfigError:
            return written
        import pyarrow.parquet as pq

        pq.write_table(table, target / EXAMPLES)
        return [*written, target / EXAMPLES]

    def to_html(self, path: str | Path | None = None) -> str:
        """Returns the page, one self-contained HTML document; written to `path`, if given."""
        names = ("issues", "answers", "confusion", "classes", "hard")
        tables = {name: getattr(self, name) for name in names}
        tables |= {"repeats": self._repeats(SHOWN), "texts": self._texts(SHOWN)}
        cut = np.zeros(len(self.data), dtype=bool) if self.cut is None else self.cut
        rows = {"repeats": len(self._repeated[0]), "texts": int((self._empty | cut).sum())}
        told = self.sentences()
        made = page(self.data.name, told, self.how, tables, self.curve, self.sizes, rows)
        if path is not None:
            Path(path).write_text(made, encoding="utf-8")
        return made


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else value
