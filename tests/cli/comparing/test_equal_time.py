"""Rivals at equal time: how the time is met, and when it is measured anew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finesieve.cli.comparing import bench as bench_module
from finesieve.cli.comparing.bench import Bench
from finesieve.cli.comparing.equal_time import ATTEMPTS
from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.comparing.suite import Files
from finesieve.cli.results import read_all
from tests.cli.comparing.suites import fake_bench


def test_equal_time_is_met_although_the_pace_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rival that costs 8 % more an example and 2 s besides: the second try meets the time."""
    made, shares = fake_bench(tmp_path, monkeypatch, lambda s: 108 * s + 2, lambda n: 1.0)
    records = {r["name"]: r for r in made.run()}
    equal = records[RIVAL]["equal_time"]
    assert equal["target"] == 30
    assert abs(equal["ratio"] - 1) <= 0.03
    assert len(shares) == equal["attempts"] == 2
    assert records[RIVAL]["config"]["settings"]["share"] == shares[-1] == equal["share"]
    tries = re.findall(r"took ([\d.]+) of finesieve's time with", capsys.readouterr().out)
    assert [abs(float(ratio) - 1) <= 0.03 for ratio in tries] == [False, True]
    made.run()
    assert len(shares) == 2  # what was met is not run again
    more = Bench(replace(made.suite, seeds=3), str(tmp_path), str(made.output), 1, say=print)
    more.run()
    assert len(shares) == 4  # further seeds start from the pace found


def test_equal_time_keeps_the_nearest_try_on_a_noisy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = (1.0, 1.3, 0.9, 1.5, 1.3, 0.9, 1.5, 1.3, 0.9, 1.06)
    made, shares = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: noise[n])
    records = {r["name"]: r for r in made.run()}
    equal = records[RIVAL]["equal_time"]
    assert len(shares) == ATTEMPTS * (1 + bench_module.REPEATS) == equal["attempts"]
    tried = [100 * s * f / 30 for s, f in zip(shares, noise[1:], strict=True)]
    assert equal["ratio"] == pytest.approx(min(tried, key=lambda r: abs(r - 1)), rel=1e-6)
    kept = read_all(tmp_path / "out")[0]
    assert [r["equal_time"] for r in kept if r["name"] == RIVAL] == [equal]


def test_a_machine_that_changed_its_pace_has_finesieve_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gates stay open: the rival has everything, and is quicker than a run of hours ago."""
    made, shares = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: 1.0)
    slow = [1.25, 1.0]
    process = Bench._process

    def drifting(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        found = process(self, config, cores)
        if config.method == "finesieve":
            total = 100 * slow.pop(0)
            found["seconds"] = {"total": total, "train": 0.9 * total}
            found["examples"]["trained"] = 1000
        return found

    monkeypatch.setattr(Bench, "_process", drifting)
    records = {r["name"]: r for r in made.run()}
    assert not slow
    assert records["finesieve"]["seconds"]["total"] == 100
    assert records[RIVAL]["equal_time"] == {
        "target": 100,
        "share": 1.0,
        "ratio": 1.0,
        "attempts": 1,
    }
    assert shares == [1.0]


@pytest.mark.parametrize("rival", ["random at equal time", "truncated at equal time"])
def test_a_rival_of_another_configuration_does_not_count_though_its_time_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    made, _ = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: 1.0)
    made.suite = replace(made.suite, methods=("full", "finesieve", rival))
    process, asked = Bench._process, []

    def noted(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        found = process(self, config, cores)
        asked.append((config.method, config.lr))
        if config.limit != 192:  # truncated
            found["seconds"] = {"total": 30.0, "train": 27.0}
        return {**found, "config": config.as_dict()}

    monkeypatch.setattr(Bench, "_process", noted)
    made.run()
    assert len(asked) == 3
    made.run()
    assert len(asked) == 3
    made.suite = replace(made.suite, config={**made.suite.config, "lr": 1e-5})
    records = made.run()
    assert [lr for _, lr in asked[3:]] == [1e-5] * 3
    assert {r["config"]["lr"] for r in records} == {1e-5}


def test_records_from_before_a_field_without_effect_stay_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those from before one whose default changed what is done, as `attention`'s did."""
    made, _ = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: 1.0)
    runs, files = made.runs(tmp_path), Files(made.suite, tmp_path, tmp_path)
    config = made.suite.config_of("two", "full", 0, {}, files)
    record = {"config": files.hidden(json.loads(json.dumps(config.as_dict())))}
    assert runs.is_of(record, config)
    del record["config"]["lora"]
    assert runs.is_of(record, config)
    assert not runs.is_of(record, replace(config, lora=8))
    del record["config"]["attention"]
    assert not runs.is_of(record, config)


def test_two_rivals_both_match_a_time_that_was_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: 1.0)
    other = "truncated at equal time"
    made.suite = replace(made.suite, methods=(*made.suite.methods, other))
    process, totals = Bench._process, [30.0, 20.0]

    def drifting(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        if config.method == "full" and config.limit != 192:  # truncated: 20 s however few
            return {
                "seconds": {"total": 20.0, "train": 18.0},
                "eval": {"accuracy": 0.9, "loss": 0.1},
                "examples": {"drawn": config.limit, "trained": config.limit},
            }
        found = process(self, config, cores)
        if config.method == "finesieve":
            total = totals.pop(0)
            found["seconds"] = {"total": total, "train": 0.9 * total}
        return found

    monkeypatch.setattr(Bench, "_process", drifting)
    records = {r["name"]: r for r in made.run()}
    assert {n: r["seconds"]["total"] for n, r in records.items() if n != "full"} == {
        "finesieve": 20,
        RIVAL: pytest.approx(20, rel=0.03),
        other: 20,
    }
    on_disk = {r["name"]: r for r in read_all(tmp_path / "out")[0]}
    assert on_disk[RIVAL]["equal_time"]["target"] == 20


def test_all_methods_of_a_set_and_seed_share_their_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers in step must not give every full training one core and its rival the other."""
    made, _ = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: 1.0)
    made.suite = replace(made.suite, seeds=6)
    made.cores = [[0], [1]]
    where: dict[int, set[int]] = {}
    process = Bench._process

    def placed(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        where.setdefault(config.seed, set()).add(cores[0])
        return process(self, config, cores)

    monkeypatch.setattr(Bench, "_process", placed)
    made.run()
    assert sorted(where) == list(range(6))
    assert {len(cores) for cores in where.values()} == {1}


def test_a_rival_without_a_time_to_match_is_shown_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, shares = fake_bench(tmp_path, monkeypatch, lambda s: 100 * s, lambda n: 1.0)
    process = Bench._process

    def broken(self: Bench, config: Any, cores: Any) -> dict[str, Any]:
        return {"failed": "no"} if config.method == "finesieve" else process(self, config, cores)

    monkeypatch.setattr(Bench, "_process", broken)
    made.run()
    failed = {r["name"]: r["failed"] for r in read_all(tmp_path / "out")[0] if "failed" in r}
    assert failed == {"finesieve": "no", RIVAL: "no time to match: finesieve failed"}
    monkeypatch.setattr(Bench, "_process", process)
    assert not [r for r in made.run() if "failed" in r]  # a later start makes up for it
    assert len(shares) == 1
