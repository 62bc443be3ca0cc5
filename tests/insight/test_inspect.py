"""`finesieve.inspect`: what it returns, writes and says, and how it says what it cannot judge."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finesieve
from finesieve.errors import ConfigError, DataError
from finesieve.insight.data import Data
from finesieve.insight.insights import Insights
from finesieve.insight.page import PRINTED, SHOWN
from tests import tiny
from tests.browser import needs_browser, seen_by_browser

NASTY = '<script>alert("w1")</script> & w2'


class Bag(torch.nn.Module):
    """The mean of random embeddings and a last layer: features that tell words apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(len(tiny.WORDS), 24)
        self.last = torch.nn.Linear(24, 2)

    def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        mask = attention_mask.unsqueeze(-1).float()
        return self.last((self.words(input_ids) * mask).sum(1) / mask.sum(1))


def rows(n: int = 400, flipped: int = 12) -> dict[str, list[Any]]:
    """Class 0 has words below w30, class 1 those above; the first labels are flipped."""
    dice = np.random.default_rng(1)
    labels = [i % 2 for i in range(n)]
    texts = [
        " ".join(f"w{30 * y + j}" for j in dice.integers(0, 30, dice.integers(5, 12)))
        for y in labels
    ]
    texts[-1] = texts[-3]  # a copy
    return {"text": texts, "label": [1 - y if i < flipped else y for i, y in enumerate(labels)]}


def looked(data: Any, **more: Any) -> Insights:
    return finesieve.inspect(Bag(), data, tokenizer=tiny.tokenizer(), max_length=16, **more)


@pytest.fixture(scope="module")
def found() -> Insights:
    data = rows()
    data["text"][0] += f" {NASTY}"
    return looked(data, names=["low", f"high {NASTY}"])


def test_the_flipped_rows_are_the_issues(found: Insights) -> None:
    issues = found.issues
    assert set(issues["row"][:10]) <= set(range(12))
    assert all(a != b for a, b in zip(issues["given"], issues["suggested"], strict=True))
    for record in issues.records():  # the contradicting row has the suggested label
        assert found.data.label(record["contradicting_row"]) == record["suggested"]
    assert sum(found.confusion["rows"]) == issues.rows
    assert found.judged is not None
    assert found.judged.wrong.low <= 12 <= found.judged.wrong.high
    assert found.sentences()[0].startswith("About ")
    assert "only a lower bound where mistakes gather on hard rows" in found.sentences()[1]
    assert found.sentences()[1] in found.to_html()
    assert found.repeats["row"] == [397, 399]


def test_exports_are_what_other_tools_read(found: Insights, tmp_path: Path) -> None:
    names = {path.name for path in found.export(tmp_path)}
    assert names == {
        "insights.html",
        "issues.csv",
        "labels.npy",
        "pred_probs.npy",
        "examples.parquet",
    }
    p, labels = np.load(tmp_path / "pred_probs.npy"), np.load(tmp_path / "labels.npy")
    assert p.shape == (400, 2)
    assert p.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert labels.tolist() == rows()["label"]
    with (tmp_path / "issues.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [int(r["row"]) for r in read] == found.issues["row"]
    assert {r["confirmed"] for r in read} == {""}
    frame = found.to_pandas()
    assert frame["row"].tolist() == list(range(400))
    assert frame["issue"].sum() == found.issues.rows
    assert found.examples.to_arrow().num_rows == 400


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & dict(attrs).keys(), "the page needs no network"

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def test_the_page_escapes_what_the_data_hold_and_needs_no_network(found: Insights) -> None:
    page = found.to_html()
    reader = _Reader()
    reader.feed(page)
    assert reader.tags.count("script") == 1
    for tag in ("table", "tr", "td", "section", "svg"):
        assert reader.tags.count(tag) == reader.tags.count(f"/{tag}") > 0
    assert "&lt;script&gt;alert(&quot;w1&quot;)&lt;/script&gt;" in page
    assert page.index("labels look wrong") < page.index("<table>")
    assert "http" not in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: {k: v[:60] for k, v in d.items()}, "60 rows are too few"),
        (lambda d: {**d, "label": [1] * 400}, "same label"),
        (lambda d: {**d, "text": ["w1 w2 w3"] * 400}, "alike"),
        (lambda d: {**d, "text": ["w1 w2 w3", "w40 w41"] * 200}, "2 different texts are too few"),
        (lambda d: {**d, "label": list(range(400))}, "right column"),
    ],
)
def test_what_cannot_be_judged_is_said(change: Any, said: str) -> None:
    found = looked(change(rows()))
    assert any(said in sentence for sentence in found.sentences())
    assert found.judged is None
    assert found.issues.rows == 0
    assert "<table>" in found.to_html() or found.repeats.rows == 0


def test_without_labels_or_model_repeats_and_lengths_are_left() -> None:
    data = rows()
    data["text"][3] = ""
    found = looked({"text": data["text"]}, label=None)
    assert "There are no labels" in found.sentences()[-1]
    assert found.repeats.rows == 2
    assert found.texts["what"] == ["empty"]
    alone = finesieve.inspect(None, data)
    assert alone.repeats["row"] == [397, 399]
    assert "Without a model" in alone.sentences()[-1]


@pytest.mark.parametrize("model", [None, Bag()])
def test_numbers_are_no_classes(model: Any) -> None:
    data = rows(120)
    data["label"] = [i % 7 / 2 for i in range(120)]
    found = finesieve.inspect(model, data, tokenizer=tiny.tokenizer(), max_length=16)
    assert found.judged is None
    assert sum("numbers such as 0.5, not classes" in said for said in found.sentences()) == 1
    data["label"] = [float(i % 2) for i in range(120)]  # whole numbers are classes
    assert not any("numbers" in said for said in looked(data).sentences())


def test_bad_input_is_named_at_once() -> None:
    with pytest.raises(DataError, match=r"no column 'words'; there are 'text', 'label'"):
        looked(rows(), text="words")
    with pytest.raises(DataError, match="1 of 400 rows have no label"):
        looked({**rows(), "label": [None, *rows()["label"][1:]]})
    with pytest.raises(DataError, match="labels 1 are none of 0 to 0"):
        looked(rows(), names=["low"])
    with pytest.raises(ConfigError, match="tokenizer"):
        finesieve.inspect(Bag(), rows())
    with pytest.raises(ConfigError, match="folds is 1"):
        looked(rows(), folds=1)
    with pytest.raises(DataError, match="row 0 has no 'text'"):
        looked([{"label": 1}])


def test_labels_outside_the_models_classes_are_refused_before_anything_is_run() -> None:
    data, words = rows(), tiny.tokenizer()

    def refused(model: Any, labels: list[Any], message: str) -> None:
        with pytest.raises(DataError, match=message):
            finesieve.inspect(model, {**data, "label": labels}, tokenizer=words)

    counted, odd = [y + 1 for y in data["label"]], [*data["label"][:-2], 5, 7]
    refused(tiny.bert(), counted, r"none of the model's 2 classes: 2 .*probably count from 1: sub")
    refused(tiny.bert(), odd, r"2 of 400 rows .*5, 7 \(rows \[398, 399\].*num_labels=8")
    refused(tiny.bert(), [*data["label"][:-1], -1], "A negative label often says that a row has")
    refused(Bag(), odd, r"2 of 400 rows have labels that are none of the model's 2 classes")
    refused(tiny.bert(), [f"c{i % 3}" for i in range(400)], "expected 2 different ones")
    named = tiny.bert()
    named.config.id2label = {0: "bad", 1: "good"}
    refused(
        named, ["good", "fine"] * 200, r"classes: fine .*expected bad, good\. .*spelt otherwise"
    )
    refused(tiny.bert(), [-100, *data["label"][1:]], "1 of 400 rows have no label")
    found = finesieve.inspect(named, {**data, "label": ["good", "bad"] * 200}, tokenizer=words)
    assert found.data.names == ["bad", "good"]


def test_cut_texts_are_those_longer_than_the_limit() -> None:
    data = rows()
    data["text"][5] = " ".join(["w1"] * 16)  # fills the limit exactly
    data["text"][6] = " ".join(["w1"] * 17)
    found = looked(data)
    assert found.texts["row"] == [6]
    assert found.texts["what"] == ["cut"]


def test_a_model_without_a_trained_head_is_read_by_the_mean_of_its_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finesieve.insight.embed import embed

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)

    texts = ["w1 w2 w3", "w4", "w5 w6"]
    model, words = tiny.bert(), tiny.tokenizer()
    found = embed(model, words, texts, max_length=16)
    alone = words(texts[0], return_tensors="pt")
    expected = model.base_model.eval()(**alone).last_hidden_state.mean(dim=1)
    assert found.features[0] == pytest.approx(expected[0].detach().numpy(), abs=1e-5)
    assert found.tokens[0] == alone["input_ids"].shape[1]
    assert model.training  # as it was


def test_on_paper_long_tables_are_cut_and_say_so(found: Insights) -> None:
    assert found.hard.rows > PRINTED >= found.issues.rows
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', found.to_html(), re.S))
    told = f"The first {PRINTED} rows are printed."
    assert told in sections["hard"]
    assert told not in sections["issues"]
    assert f"tr:nth-child(n+{PRINTED + 1})" in found.to_html()


def test_the_page_makes_texts_of_the_rows_that_it_shows_alone() -> None:
    made: list[int] = []

    class Watched(list[str]):
        def __getitem__(self, at: Any) -> Any:
            made.append(at)
            return super().__getitem__(at)

    n = 3 * SHOWN
    texts = Watched(f"one text of {i // 2}" for i in range(n))
    here = np.arange(n)
    data = Data("", texts, None, here % 3, ["a", "b", "c"], here)
    found = Insights(data, here // 2 * 2, here // 2 * 2, cut=here >= 0, limit=3)
    page = found.to_html()
    assert f"The first {SHOWN} of {n:,} rows" in page
    assert f"texts longer than the 3 tokens that the model was shown: {n:,}." in page
    assert "Groups of them in which labels disagree: 750." in page
    assert len(made) <= 2 * SHOWN
    assert len(found.repeats["text"]) == len(found.texts["text"]) == n
    assert found.repeats["group"][:4] == [1, 1, 2, 2]


@pytest.mark.slow
@needs_browser
def test_a_browser_sorts_and_filters_the_tables(found: Insights, tmp_path: Path) -> None:
    script = """
    const rows = () => [...document.querySelectorAll("#issues tbody tr")];
    const first = () => rows().map(row => +row.cells[0].textContent);
    const head = document.querySelector("#issues th button");
    head.click(); const up = first(); head.click(); const down = first();
    const box = document.querySelector("#issues input");
    box.value = "alert("; box.dispatchEvent(new Event("input"));
    const left = rows().filter(row => getComputedStyle(row).display !== "none").length;
    document.title = JSON.stringify({up, down, left,
      wide: document.documentElement.scrollWidth - innerWidth});
    """
    seen = seen_by_browser(found.to_html(), script, tmp_path)
    assert seen["up"] == sorted(found.issues["row"]) == seen["down"][::-1]
    # Row 0 holds the word, and every row whose label has it in its name.
    assert 0 < seen["left"] <= len(seen["up"])
    assert seen["wide"] <= 0
