"""Import paths of version 0.1 work for one more release: they warn and give the same objects."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import finesieve
from finesieve import _deprecated

NEEDS = {"accelerate": "accelerate", "hf": "transformers", "lightning": "lightning"}
G, B, S, T = (f"finesieve.{x}" for x in ("gates", "batches", "scoring", "stages"))
M, V, N = (f"finesieve.{x}" for x in ("methods", "sieve", "integrations"))
MOVED = {  # old module: new modules, each with the public names that it took over
    "accelerate": {f"{N}.accelerate": "FilteredLoader generators"},
    "agreement": {f"{V}.ranks": "Agreement Alone Ranks"},
    "budget": {f"{T}.budget": "Budget"},
    "checks": {
        f"{G}.laws": "Factory sample_offers law_answers_every_example law_empty_offer "
        "law_deciding_does_not_learn law_does_not_change_the_offer "
        "law_state_is_whole law_unbiased LAWS check_gate"
    },
    "evidence": {f"{T}.window": "Array auc Window", f"{T}.prices": "Prices stage_prices"},
    "features": {
        f"{G}.features": "FeatureFunction IGNORED target_features token_features "
        "choice_features text_features"
    },
    "forward_gate": {f"{G}.forward": "PredictorGate"},
    "frozen": {f"{S}.frozen": "Forward layers_of freeze FrozenPrefix"},
    "heads": {
        f"{S}.heads": "logits_of target check_classes Head SingleLabel Choice MultiLabel "
        "Regression Tokens Spans"
    },
    "hf": {f"{N}.transformers.attach": "HOOKS LossFunction attach Attached head_of"},
    "ledger": {"finesieve.costs.ledger": "Counts Ledger", "finesieve.costs.timer": "Clock"},
    "lightning": {f"{N}.lightning": "LossFunction SieveCallback"},
    "predictor": {
        f"{G}.predictor": "Predictor hashed SizeRegression",
        f"{M}.baselines.naive_bayes": "NaiveBayes",
    },
    "rivals": {
        f"{M}.baselines.loss_rules": "SelectiveBackprop TopLoss LossSampling",
        f"{M}.baselines.infobatch": "Known InfoBatch Annealed",
        f"{M}.baselines.rho_loss": "Reducible",
    },
    "rows": {
        f"{B}.carry": "IDS WEIGHTS PREFIX Ride TensorBatch inputs ride is_filler",
        f"{B}.rows": "Rows rows_state rows_from_state",
        f"{B}.codec": "Codec",
    },
    "schedule": {f"{V}.schedule": "StreamSchedule"},
    "scores": {
        f"{S}.scorers": "SizeFunction SIZE_ALONE Scores check_losses Scorer unwrapped "
        "scoring Task Classification PerExample"
    },
    "stream": {f"{V}.sieve": "Sieve"},
    "thresholds": {
        f"{G}.sampling": "Array inclusion solve_threshold balanced_threshold ThresholdSampling",
        f"{M}.baselines.loss_rules": "History Quantile",
        f"{M}.baselines.paper": "LossThreshold CutOff",
    },
}
STAYED = {  # modules that are packages now, and export what was in them
    "gates": {
        f"{G}.protocol": "FloatArray IntArray BoolArray State Features Offer Verdict Gate",
        "finesieve.costs.meter": "COST_RATIO SURVIVOR",
        f"{G}.dice": "Dice strata",
        f"{G}.simple": "Open Random",
    },
    "scoring": {f"{S}.batches": "ScoringPass", f"{S}.cuts": "cut_alike cut_by_length"},
    "stages": {
        "finesieve.costs.meter": "Work",
        f"{T}.policy": "View Move Stages Fixed",
        f"{T}.automatic": "Automatic",
    },
}


@pytest.fixture
def old(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an old module that was not imported yet, and is not after the test."""
    name: str = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    before = vars(finesieve).get(name)
    yield name
    sys.modules.pop(f"finesieve.{name}", None)
    vars(finesieve).pop(name, None)
    if before is not None:
        setattr(finesieve, name, before)


@pytest.mark.parametrize("old", MOVED, indirect=True)
def test_an_old_module_warns_and_gives_the_same_objects(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"finesieve.{old} goes with") as said:
        module = importlib.import_module(f"finesieve.{old}")
    (warning,) = said
    for new, names in MOVED[old].items():
        assert new in str(warning.message)
        for name in names.split():
            assert getattr(module, name) is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize("name", STAYED)
def test_packages_export_what_the_module_of_their_name_had(name: str) -> None:
    package = importlib.import_module(f"finesieve.{name}")
    for new, names in STAYED[name].items():
        for each in names.split():
            assert getattr(package, each) is getattr(importlib.import_module(new), each)
    assert set(package.__all__) >= set(" ".join(STAYED[name].values()).split())


def test_one_baseline_was_a_policy() -> None:
    with pytest.warns(DeprecationWarning, match=r"it is finesieve\.methods\.baselines\.paper"):
        from finesieve.stages import Paper
    assert Paper is finesieve.Paper
    with pytest.raises(ImportError, match="cannot import name 'Papers'"):
        from finesieve.stages import Papers  # noqa: F401


def test_the_warning_is_shown_at_the_line_that_imports() -> None:
    """By Python's own filters: from a program, not from a library. Attributes go on working too."""
    code = """
import finesieve
assert finesieve.heads.SingleLabel and finesieve.scores.Task and finesieve.checks.check_gate
assert finesieve.methods.registry.build("full").name == "full"
from finesieve.rows import inputs
alone = finesieve.agreement.Alone()
assert not hasattr(finesieve, "agreements")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    assert len(said) == 2, done.stderr
    assert said[0].startswith("<string>:5: DeprecationWarning: finesieve.rows goes")
    assert said[1].startswith("<string>:6: DeprecationWarning: finesieve.agreement goes")


def test_no_old_module_is_left_out() -> None:
    there = {path.stem for path in Path(_deprecated.__file__).parent.glob("*.py")}
    assert there == {"__init__", *MOVED}
    assert set(MOVED) - {"scores", "heads", "checks", *NEEDS} == _deprecated.LOADED
