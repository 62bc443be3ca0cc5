"""Paired intervals hold what they promise, and a rival under another name is no gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.comparing.statistics import compare_runs, overall, paired, t_quantile
from finesieve.cli.comparing.tables import table
from finesieve.cli.comparing.verdict import verdict, words
from finesieve.cli.results import pack_examples, unpack_examples
from tests.cli.comparing.suites import record


@pytest.mark.parametrize(("df", "value"), [(1, 12.706), (2, 4.303), (10, 2.228), (1e6, 1.960)])
def test_quantiles_are_those_of_the_books(df: float, value: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(value, abs=2e-3)


@pytest.mark.parametrize(("seed_effect", "example_effect"), [(0.0, 1.0), (0.3, 1.0), (0.5, 0.0)])
def test_the_interval_covers_the_truth(seed_effect: float, example_effect: float) -> None:
    """Differences with a mean of 0.2, seeds and test examples both drawn: 95 % or more cover it."""
    dice = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        d = (
            0.2
            + seed_effect * dice.standard_normal((3, 1))
            + example_effect * dice.standard_normal((1, 200))
            + 0.5 * dice.standard_normal((3, 200))
        )
        found = paired(d)
        covered += found.low <= 0.2 <= found.high
    assert covered / 400 >= 0.93


def test_intervals_shrink_with_seeds_and_examples() -> None:
    dice = np.random.default_rng(1)
    few, many = (paired(dice.standard_normal((s, n))) for s, n in ((3, 50), (12, 5000)))
    assert few.high - few.low > 3 * (many.high - many.low)


def test_pairs_are_of_the_same_seed() -> None:
    dice = np.random.default_rng(2)
    base = [dice.random(300) for _ in range(3)]
    ours = [record("a", s, base[s] - 0.01) for s in range(3)]
    rivals = [record("b", s, base[s]) for s in (2, 0, 1)]
    found = compare_runs(ours, rivals)
    assert found is not None
    assert found.verdict == "better"
    assert found.mean == pytest.approx(-0.01, abs=1e-3)
    assert compare_runs(ours, [record("b", 7, base[0])]) is None


def suite_of(dice: np.random.Generator, gain: float, sets: int = 6) -> list[dict[str, Any]]:
    """Two methods whose runs differ by noise of seeds and examples, and by `gain`."""
    out = []
    for i in range(sets):
        hard = dice.gamma(0.5, 0.6, 400)
        for seed in range(3):
            for name in ("finesieve", RIVAL):
                noise = 0.02 * dice.standard_normal() + 0.2 * dice.standard_normal(400)
                shift = -gain if name == "finesieve" else 0.0
                out.append(record(name, seed, np.abs(hard + noise + shift), set=f"set{i}"))
    return out


def test_random_selection_under_another_name_is_no_gain() -> None:
    dice = np.random.default_rng(3)
    told = [verdict(suite_of(dice, 0.0)) for _ in range(60)]
    assert sum(t.endswith(": a gain.") for t in told) <= 4  # 2.5 % expected
    assert sum(t.endswith(": no gain shown.") for t in told) >= 52


def test_a_real_gain_is_found() -> None:
    dice = np.random.default_rng(4)
    told = [verdict(suite_of(dice, 0.08)) for _ in range(10)]
    assert sum(t.endswith(": a gain.") for t in told) >= 9


def test_one_seed_proves_nothing() -> None:
    """Two runs of one method differ significantly over test examples: that is no verdict."""
    dice = np.random.default_rng(8)
    base = dice.random(300)
    found = compare_runs([record("a", 0, base - 0.01)], [record("b", 0, base)])
    assert found is not None
    assert found.high < 0
    assert found.verdict == "one seed"
    three = [r for r in suite_of(dice, 0.08) if r["seed"] == 0]
    assert "no verdict before there are more seeds" in verdict(three)


def test_many_sets_of_one_seed_each_are_judged_by_their_spread() -> None:
    dice = np.random.default_rng(11)

    def broad(gain: float) -> str:
        return verdict([r for r in suite_of(dice, gain, sets=20) if r["seed"] == 0])

    none = [broad(0.0) for _ in range(20)]
    assert sum(t.endswith(": no gain shown.") for t in none) >= 17  # of 19 expected
    assert all("of 20 sets, one seed each" in t for t in none)
    assert sum(broad(0.08).endswith(": a gain.") for _ in range(4)) >= 3
    assert sum(broad(-0.08).endswith(": a loss.") for _ in range(4)) >= 3
    half = [
        {**r, **OPEN} if r["name"] == "finesieve" and r["set"] < "set15" else r
        for r in suite_of(dice, 0.1, sets=20)
        if r["seed"] == 0
    ]
    # By name, set0, set1, set10 to set14 are seven.
    assert "lower loss on 13, higher on 0, same as full on 7 of 20 sets" in verdict(half)


OPEN = {
    "stages": [{"stage": 1}],  # what a run's record has if its gates never closed
    "examples": {"drawn": 100, "trained": 100, "scored": 0},
}


def test_a_verdict_on_runs_without_any_loss() -> None:
    """An easy set: losses that are zero to the last digit are level, and no error."""
    none = np.zeros(50)
    records = [record(name, s, none) for s in range(3) for name in ("full", "finesieve", RIVAL)]
    assert "tie" in verdict(records)
    assert "no gain shown" in verdict(records)


def test_open_gates_are_the_same_as_full_training() -> None:
    dice = np.random.default_rng(9)
    records = [{**r, **OPEN} if r["name"] == "finesieve" else r for r in suite_of(dice, 0.3)]
    told = verdict(records)
    assert "better on 0, tie on 0, worse on 0, same as full on 6 of 6 sets" in told
    assert told.endswith("no gain shown.")
    assert "finesieve is the same as full here" in verdict(
        [r for r in records if r["set"] == "set0"]
    )
    # Tuned to other points of the grid they are different training, and the difference counts.
    points = [{**r, "point": {"lr": 1e-4 if r["name"] == "finesieve" else 2e-4}} for r in records]
    assert verdict(points).endswith(": a gain.")


def test_a_run_that_was_plain_training_is_no_speed_up() -> None:
    """It was quicker than full training by the clock alone."""
    dice = np.random.default_rng(9)
    records = suite_of(dice, 0.0)
    records += [
        {**r, "name": "full", "seconds": {"total": 12.0}} for r in records if r["name"] == RIVAL
    ]
    ours = {**OPEN, "seconds": {"total": 10.0, "decide": 0.1}}
    records = [{**r, **ours} if r["name"] == "finesieve" else r for r in records]
    row = [line for line in table(records).splitlines() if line.startswith("| set0 | finesieve")]
    assert row[0].count("same as full") == 2  # of the speed-up, and against random
    assert "1.00x as fast on average over 6 sets" in verdict(records)
    closed = [{**r, "stages": [{"stage": 1}, {"stage": 2}]} for r in records]
    assert "1.20x as fast on average over 6 sets" in verdict(closed)


def test_an_open_gate_behind_a_budget_is_no_plain_training() -> None:
    """Its random share alone was trained on."""
    dice = np.random.default_rng(9)
    budget = {**OPEN, "examples": {"drawn": 100, "trained": 10, "scored": 0}}
    records = [{**r, **budget} if r["name"] == "finesieve" else r for r in suite_of(dice, 0.3)]
    assert "better on 0, tie on 6, worse on 0 of 6 sets" in verdict(records)
    assert "| gates stayed open |" in table(records)


def test_cautions_stand_beside_the_verdict() -> None:
    dice = np.random.default_rng(4)
    sound = suite_of(dice, 0.2)
    assert "Caution" not in verdict(sound)
    two = [r for r in sound if r["seed"] < 2 or r["set"] != "set1"]
    assert "Caution: fewer than 3 seeds on set1: an indication, no proof." in verdict(two)
    for r in sound:
        if (r["set"], r["name"], r["seed"]) == ("set2", RIVAL, 1):
            r["seconds"] = {"total": 12.0}
    told = verdict(sound)
    assert f"the seconds of {RIVAL} are off by up to 20% on set2, so that is no comp" in told


def test_few_sets_that_happen_to_agree_prove_nothing() -> None:
    """Two sets, each far from sure of itself."""
    close = overall([-0.112, -0.125])
    assert close.high < 0
    wary = overall([-0.112, -0.125], [0.61, 0.37])
    assert wary.low < -0.4 < 0.2 < wary.high
    assert words(["tie", "tie"], wary, "a", "b").endswith("no gain shown.")
    assert overall([0.1, -0.3, 0.2], [0.01] * 3) == overall([0.1, -0.3, 0.2])


def test_words() -> None:
    none = overall([0.01, -0.01, 0.02])
    assert words(["tie", "better", "worse"], none, "a", "b").endswith("no gain shown.")
    assert words(["worse"], overall([0.1]), "a", "b").endswith("a loss on this set.")
    assert words(["tie"], overall([-0.1]), "a", "b").endswith("no gain shown.")
    assert words(["better", "tie", "better"], none, "a", "b").endswith("a gain.")
    assert words(["worse", "worse"], none, "a", "b").endswith("a loss.")


def test_the_table_says_what_failed_and_what_is_not_at_equal_time() -> None:
    dice = np.random.default_rng(5)
    loss = dice.random(50)
    records = [
        record("full", 0, loss),
        record("finesieve", 0, loss),
        record(RIVAL, 0, loss + 0.1, equal_time={"target": 10.0 / 1.08}),
        {"role": "claim", "set": "one", "name": "broken", "seed": 0, "failed": "no memory"},
        record("full", 0, loss, role="tuning", set="two"),
    ]
    text = table(records)
    assert "| one | broken | failed |" in text
    assert "time off by up to 8%" in text
    assert "one seed: -0.1000" in text
    assert "| two |" not in text


def test_no_verdict_where_a_method_took_another_time() -> None:
    """Only finesieve's seconds are those that random was given."""
    dice = np.random.default_rng(5)
    loss = dice.random(50)
    records = [
        record(name, seed, loss + more + 0.01 * seed)
        for seed in (0, 1)
        for name, more in (("finesieve", -0.2), (RIVAL, 0.0), ("quick", 0.3), ("level", 0.3))
    ]
    for r in records:
        r["seconds"]["total"] *= {"quick": 0.6, "level": 1.03}.get(r["name"], 1.0)
    text = table(records)
    assert "in 0.60 of its seconds: +0.3000" in text
    assert "worse: +0.3000" in text
    assert "no verdict" in verdict(records, ours="quick")
    assert "level against random at equal time: worse;" in verdict(records, ours="level")


def test_examples_come_back_as_they_were() -> None:
    dice = np.random.default_rng(6)
    for n in (1, 7, 8, 1001):
        loss, right = dice.random(n), dice.random(n) < 0.5
        a, b = unpack_examples(pack_examples(loss, right))
        assert np.allclose(a, loss, rtol=1e-3)
        assert np.array_equal(b, right)


def against(ours: dict[str, Any], full: dict[str, Any], seeds: int = 3) -> list[dict[str, Any]]:
    """Runs of finesieve and of full training on one set, with macro-F1."""
    dice = np.random.default_rng(12)
    out = []
    for seed in range(seeds):
        loss = dice.random(300)
        for name, more in (("finesieve", ours), ("full", full)):
            made = record(name, seed, loss + (0.02 if name == "finesieve" else 0.0))
            made["eval"] |= {"macro_f1": 0.5 + 0.01 * seed, **more.pop("eval", {})}
            out.append({**made, "hardware": {"device": "cpu"}, **more})
    return out


def test_against_full_training_comes_first() -> None:
    told = verdict(against({"seconds": {"total": 6.7}}, {"seconds": {"total": 10.0}}))
    first, *rest = told.split("\n\n")
    assert first.startswith("finesieve against full training: 33% less time (6.7 s instead of")
    assert "accuracy 68.4 -> 65.8 % (-2.7 points, 95 % interval" in first
    assert "macro-F1 51.0 -> 51.0 % (+0.0 points, 95 % interval +0.0 to +0.0)" in first
    assert "held-out loss" in first
    assert not rest
    slower = verdict(against({"seconds": {"total": 11.0}}, {"seconds": {"total": 10.0}}))
    assert "10% more time" in slower


def test_open_gates_claim_no_speed_up_over_full_training() -> None:
    told = verdict(against({**OPEN, "seconds": {"total": 8.0}}, {"seconds": {"total": 10.0}}))
    assert "against full training: same as full" in told
    assert "no time was saved (8.0 s instead of 10.0 s: noise of the clock)" in told
    assert "less time" not in told


def test_a_busy_machine_and_a_single_answer_are_cautioned_against() -> None:
    slow = {"seconds": {"total": 9.0}, "cpu_seconds": 5.0}
    told = verdict(against(slow, {"cpu_seconds": 10.0}))
    assert (
        "by the clock finesieve took 0.90 of the time of full training, by processor time 0.50"
        in told
    )
    steady = {"seconds": {"total": 5.2}, "cpu_seconds": 5.0}
    assert "Caution" not in verdict(against(steady, {"cpu_seconds": 10.0}))
    gpu = {**slow, "hardware": {"device": "cuda"}}  # where the processor only waits
    assert "Caution" not in verdict(against(gpu, {"cpu_seconds": 10.0}))
    one = [{"name": "a", "n": 1, "predicted": 2}, {"name": "b", "n": 1, "predicted": 0}]
    records = against({}, {})
    records[1]["eval"]["classes"] = one
    assert "Caution: full predicts one class for everything" in verdict(records)


def test_savings_by_the_books_are_held_against_those_that_were_measured() -> None:
    fast = {"seconds": {"total": 6.0}, "sieve_saved": 0.45}
    assert "Caution" not in verdict(against(fast, {}))
    told = verdict(against({**fast, "sieve_saved": 0.6}, {}))
    assert "Caution: by its own books finesieve saved 60% (`sieve_saved`), measured" in told
    assert "full training 40%: trust the latter" in told


def test_a_budget_that_was_a_random_subset_says_so() -> None:
    dice = np.random.default_rng(9)
    budget = {**OPEN, "examples": {"drawn": 100, "trained": 10, "scored": 0}}
    records = [{**r, **budget} if r["name"] == "finesieve" else r for r in suite_of(dice, 0.3, 1)]
    assert "finesieve was a random subset itself" in verdict(records)
