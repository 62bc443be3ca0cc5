"""Features of the training run stand for a second look: what they were, and whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finesieve.batches.carry import inputs
from finesieve.cli.inspecting import look as command
from finesieve.cli.main import main
from finesieve.insight import embed as embedding
from finesieve.insight.embed import embed
from finesieve.insight.visits import EARLY, EARLY_MOST, Visits
from finesieve.methods.recipes import Manual
from finesieve.sieve.options import SieveOptions
from finesieve.sieve.sieve import Sieve
from tests import tiny
from tests.conftest import Bag, make_batches

N = 400


def numbered() -> list[dict[str, torch.Tensor]]:
    return [
        {**batch, "row": torch.arange(8 * i, 8 * i + 8)} for i, batch in enumerate(make_batches(N))
    ]


def test_what_was_met_last_before_it_was_trained_on_is_kept() -> None:
    """Without a learning rate the features of a row are the same whenever it is met."""
    model, visits = Bag(dropout=0.0), Visits(N)
    scorer = visits.scorer(model)
    options = SieveOptions(id_key="row", pool=64)
    method = Manual({2: 0.3}, cost_ratio=0.2)
    sieve = Sieve(scorer=scorer, method=method, total=N, head_start=64, options=options)
    for batch in sieve(numbered()):
        given = {k: v for k, v in inputs(batch).items() if k not in ("labels", "row")}
        losses = torch.nn.functional.cross_entropy(
            model(**given), batch["labels"], reduction="none"
        )
        visits.note(batch["row"].numpy())
        sieve.loss(losses, batch)
    visits.end(np.arange(N))
    early = np.arange(N) < EARLY * N
    assert not visits.met[early].any()
    assert visits.met[~early].all()  # trained on with open gates, scored with closed ones
    assert visits.features is not None
    layer = next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear))
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for batch in numbered():
        with torch.no_grad():
            model(**{k: v for k, v in batch.items() if k not in ("labels", "row")})
    hook.remove()
    expected = torch.cat(seen).numpy()
    assert visits.features[~early] == pytest.approx(expected[~early], abs=1e-5)


def test_of_a_long_stream_few_rows_count_as_early() -> None:
    many = 20_000
    for thorough, early in ((False, EARLY_MOST), (True, many // 5)):
        visits = Visits(many, thorough)
        visits.met[:] = True
        visits.met[many - 7 :] = False
        visits.end(np.arange(many))
        assert not visits.met[:early].any()
        assert visits.met[early:-7].all()
        assert np.flatnonzero(visits.passed).tolist() == list(range(many - 7, many))


def test_a_run_too_short_to_be_followed_passed_nothing_over() -> None:
    """No head was fitted and no gate closed, so nothing is known: that is not to be taken for rows
    that a filter found easy."""
    visits = Visits(400)
    visits.end(np.arange(400))
    assert not visits.met.any()
    assert not visits.passed.any()
    assert (visits.weights() == 1.0).all()


def test_texts_that_were_met_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_BATCH", 1)
    texts, visits, words = ["w1 w2", "w3 w4 w5", "w6"], Visits(3), tiny.tokenizer()
    visits.features, visits.met[1] = np.full((3, 16), 7.0, dtype=np.float32), True
    model, runs = tiny.bert(), []
    model.register_forward_hook(lambda *_: runs.append(1))
    found = embed(model, words, texts, pool="head", visits=visits)
    assert len(runs) == 2
    assert (found.features[1] == 7.0).all()
    assert not (found.features[[0, 2]] == 7.0).any()
    assert found.tokens.tolist() == [len(words(text)["input_ids"]) for text in texts]


def test_bf16_is_used_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    for able in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda able=able: able)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
        with embedding.fast(torch.device("cpu")):
            kinds.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    assert kinds == [torch.bfloat16, torch.float32]


def test_inspect_with_training_finds_flipped_labels(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Visits] = []

    class Kept(Visits):
        def end(self, order: np.ndarray) -> None:
            super().end(order)
            kept.append(self)

    monkeypatch.setattr(command, "Visits", Kept)
    dice = np.random.default_rng(0)
    names, rows = ("calm", "storm"), []
    words = [["quiet", "still", "soft", "slow", "mild"], ["loud", "wild", "rough", "fast", "sharp"]]
    for i in range(800):
        text = " ".join([*dice.choice(words[i % 2], 4), str(dice.integers(1000))])
        rows.append({"text": text, "label": names[(i % 2) ^ int(i in (500, 601, 702))]})
    source = tmp_path / "data.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny.encoder_folder(tmp_path / "model")
    out = tmp_path / "out"
    arguments = ["inspect", str(source), "--model", str(model), "--output", str(out), "--quiet"]
    assert main(arguments) == 0
    page = (out / "insights.html").read_text(encoding="utf-8")
    assert "in training, before it was trained on them" in page
    found = [line.split(",")[0] for line in (out / "issues.csv").read_text().splitlines()[1:4]]
    assert set(found) == {"500", "601", "702"}
    visits = kept[0]
    assert (visits.missed[visits.met] < 1.0).all()  # the sieve told their chances
    assert visits.weights().sum() == pytest.approx(800, rel=0.05)
