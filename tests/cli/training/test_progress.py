"""What a run whose gates stayed open says of itself."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import finesieve as fs
from finesieve.cli.main import main
from finesieve.cli.training.progress import line, snapshot, why_open
from finesieve.methods.registry import build
from finesieve.stages.policy import View
from tests.conftest import Bag, arguments, make_batches, small_sieve, train
from tests.stages.kit import NO_LIMITS


def reason(method: fs.Method) -> str:
    """Of a run over 400 examples that nothing closed a gate in."""
    model = Bag()
    sieve = small_sieve(method=method)
    train(sieve, make_batches(400), model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [m["stage"] for m in sieve.moves] == [1]
    plain = line(snapshot(sieve, 400, 1.0))
    assert "trained 100%" in plain
    assert "scored" not in plain
    return why_open(sieve, method.stages)


def test_the_reason_is_the_stream_the_price_or_the_method() -> None:
    short = fs.Sieve(method=fs.Full(), total=100)
    assert why_open(short, fs.Automatic()) == (
        "no gate closes in the first 256 examples, and the stream had 0"
    )
    dear = reason(build("finesieve", predictor_bits=12, patience=100, cost_ratio=5.0))
    found = re.match(
        r"skipping would have cost ([\d.]+) of plain training .* below 0\.95 \(conc", dear
    )
    assert found is not None
    assert float(found[1]) > 0.95
    assert why_open(small_sieve(), fs.Fixed({2: 1.0})) == (
        "the method closed no gate before the stream ended"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], True),
        (["--set", 'starts={"3": 0}', "--set", "predictor_bits=12"], False),
        (["--method", "full"], False),
    ],
)
def test_it_is_said_where_all_was_trained_on_and_there_alone(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: bool
) -> None:
    command = [w for w in arguments(files, tmp_path / "o", *more) if w != "--quiet"]
    assert main([*command, "--limit", "64"]) == 0
    told = capsys.readouterr().err
    assert (
        "no time was saved: trained on everything, because no gate closes in the first 256 "
        "examples, and the stream had 64" in told
    ) == said


def test_the_price_that_is_told_is_the_policys_own() -> None:
    """With the floors, the audit and the least share of the method's gates."""
    recipe = fs.Adaptive(least=0.6, floor_backward=0.3, patience=100, cost_ratio=0.9, warmup=0.0)
    model, batches = Bag(dropout=0.0), make_batches(400)
    sieve = fs.Sieve(model, recipe, total=400)
    train(sieve, batches, model, torch.optim.SGD(model.parameters(), lr=0.01))
    assert sieve.stage == 1
    policy, limits = sieve.method.stages, sieve.method.limits
    assert (limits.backward.least, limits.backward.floor) == (0.6, 0.3)
    view = View(1, 1.0, 400, 1, sieve.window, sieve.costs, sieve.work(), limits)
    prices = policy.evidence(view)[2:]
    without = policy.evidence(replace(view, limits=NO_LIMITS))[2:]
    assert f"{min(prices):.2f}" != f"{min(without):.2f}"  # so that the next line can fail
    assert f"would have cost {min(prices):.2f} of plain training" in why_open(sieve, policy)


def test_the_shares_of_a_budget_stand_still_and_it_says_that_it_is_a_random_subset() -> None:
    """They are of what was consumed: pools are drawn in one go, and trained on little by little."""
    model = Bag()
    sieve = small_sieve(method=build("finesieve", predictor_bits=12, budget=0.3), total=2000)
    optimizer, shown = torch.optim.SGD(model.parameters(), lr=0.01), []
    for batch in sieve(make_batches(2000)):
        given = fs.inputs(batch)
        losses = torch.nn.functional.cross_entropy(
            model(given["input_ids"], given["attention_mask"]), given["labels"], reduction="none"
        )
        sieve.loss(losses, batch).backward()
        optimizer.step()
        shown.append(line(snapshot(sieve, 2000, 1.0)))
    assert "stage 1 (random subset)" in shown[-1]
    trained = [int(re.search(r"trained (\d+)%", text)[1]) for text in shown[4:]]
    assert 25 < min(trained) <= max(trained) < 36


def test_the_stage_shown_is_that_of_what_is_trained_on() -> None:
    """Pools are drawn ahead: the sieve is in stage 2 before its first survivors are trained on."""
    model = Bag()
    sieve = small_sieve(method=build("finesieve", predictor_bits=12, starts={2: 0.2, 3: 0.5}))
    optimizer, shown, ahead = torch.optim.SGD(model.parameters(), lr=0.01), [], 0
    for batch in sieve(make_batches(400)):
        given = fs.inputs(batch)
        losses = torch.nn.functional.cross_entropy(
            model(given["input_ids"], given["attention_mask"]), given["labels"], reduction="none"
        )
        sieve.loss(losses, batch).backward()
        optimizer.step()
        now = snapshot(sieve, 400, 1.0)
        begun = [m["stage"] for m in sieve.moves if m["from_example"] <= now["consumed"]]
        assert now["stage"] == begun[-1]
        shown.append(now["stage"])
        ahead += sieve.stage > now["stage"]
    assert ahead > 0
    assert sorted(shown) == shown
    assert {*shown} == {1, 2, 3}
