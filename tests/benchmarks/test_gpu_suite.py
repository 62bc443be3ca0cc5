"""The suite for one GPU: which jobs wait for which, what is counted, and what its tables say."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_suite, gpu_tables
from benchmarks.gpu_suite import Job, Suite, read_records, run, train
from benchmarks.on_gpu.inputs import flipped, made_up

pytest.importorskip("transformers")


def arguments(**more: Any) -> argparse.Namespace:
    told = {
        "sets": ["trec6"],
        "methods": ["ours", "random", "full", "plain"],
        "ratios": [0.05],
        "seeds": 1,
        "tuning_seeds": 1,
        "rate": None,
        "settings": [],
        "development": [],
    }
    return argparse.Namespace(**{**told, **more})


def record(job: Job, loss: float, cost: float = 0.4) -> dict[str, Any]:
    return {
        "key": job.key, "set": job.set, "method": job.method, "seed": job.seed, "rate": job.rate,
        "ratio": job.ratio, "examples": 2000, "cost": cost, "loss": loss, "trained": 700,
        "scored": 1500, "accuracy": 0.5, "macro_f1": 0.4,
    }  # fmt: skip


def test_methods_are_tuned_before_they_claim_and_random_waits_for_ours() -> None:
    records: dict[str, Any] = {}
    suite, order = Suite(arguments(), records), []
    while jobs := list(suite.jobs()):
        job = jobs[0]
        order.append(job)
        best = {"ours": 4e-4, "random": 1e-4}.get(job.method, 2e-4)
        records[job.key] = record(job, abs(job.rate - best) + 0.1)
    claims = [job for job in order if job.set == "trec6"]
    assert len(order) - len(claims) == 4 * 2 * 3
    assert {job.method: job.rate for job in claims} == {
        "ours": 4e-4, "random": 1e-4, "full": 2e-4, "plain": 2e-4,
    }  # fmt: skip
    place = {job.key: i for i, job in enumerate(order)}
    for job in order:
        if job.method == "random":
            rate = 4e-4 if job.set == "trec6" else job.rate
            assert place[Job(job.set, "ours", 0, rate, 0.05).key] < place[job.key]
            # The head start's 100 examples cost 0.05 each; the rest of the cost is trained on.
            assert job.share == pytest.approx(0.4 - 100 * 0.05 / 2000)


def test_with_one_rate_for_all_nothing_is_tuned() -> None:
    jobs = list(Suite(arguments(rate=3e-4, methods=["ours", "plain"]), {}).jobs())
    assert [(job.set, job.method, job.rate) for job in jobs] == [
        ("trec6", "ours", 3e-4), ("trec6", "plain", 3e-4),
    ]  # fmt: skip


def test_settings_are_compared_with_the_rate_of_ours() -> None:
    args = arguments(rate=2e-4, sets=[], development=["subj"], settings=["", "least=0.1,pool=64"])
    keys = [job.key for job in Suite(args, {}).jobs()]
    assert keys == ["subj/ours@0.05/0.0002/0", "subj/ours:least=0.1,pool=64@0.05/0.0002/0"]


def test_costs_are_counted_and_a_run_goes_on_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_up(400, 9, 300, seed=0)
    arrays: dict[str, Any] = {"classes": 2}
    for part in ("train", "eval"):
        arrays |= {f"{part}_{x}": getattr(made, x) for x in ("tokens", "starts", "labels")}
    np.savez_compressed(tmp_path / "trec6.npz", **arrays)
    found = train(Job("trec6+flip20", "ours:least=0.5,pool=64", 0, 1e-3, 0.5), tmp_path, 320, True)
    assert found["cost"] == pytest.approx((found["trained"] + 0.5 * found["scored"]) / 320)
    assert train(Job("trec6", "plain", 0, 1e-3, 0.5), tmp_path, 320, True)["cost"] == 1.0

    monkeypatch.setattr(gpu_suite, "train", _known)
    file = tmp_path / "records.jsonl"
    args = arguments(
        rate=1e-3, output=file, minutes=1.0, processes=1, inputs=tmp_path, limit=320, small=True
    )
    run(args)
    assert [x["method"] for x in read_records(file).values()] == ["ours", "random", "full", "plain"]
    before = file.read_text()
    run(args)
    assert file.read_text() == before
    assert "4 records; 0 jobs are left" in capsys.readouterr().out


def _known(job: Job, *rest: Any) -> dict[str, Any]:
    return record(job, 0.1)


def test_flipped_labels_are_as_many_as_told_and_never_the_right_ones() -> None:
    made = made_up(4000, 5, 100, seed=0)
    wrong = flipped(made, 0.2, 5).labels != made.labels
    assert 0.17 < wrong.mean() < 0.23
    assert (flipped(made, 1.0, 2).labels != made.labels).all()


def test_the_table_pairs_by_seed_and_tells_a_gain_from_noise() -> None:
    rows = []
    for name, gains in (("better", (0.10, 0.11, 0.12)), ("noise", (-0.3, 0.0, 0.2))):
        for seed, gain in enumerate(gains):
            rows.append(record(Job(name, "random", seed, 1e-4, 0.05), 1.0 + seed))
            rows.append(record(Job(name, "ours", seed, 1e-4, 0.05), (1.0 + seed) - gain))
            rows += [record(Job(name, m, seed, 1e-4, 0.05), 1.0) for m in ("plain", "full")]
    text = gpu_tables.table(rows, 0.05)
    assert "| better | 3 | 0.40 | 35% | 75% |" in text
    assert "-6% [-7%, -4%]" in text
    assert "lower than the random subset's on 1 of 2 sets" in text
    assert "better on 1, worse on 0" in text
    assert gpu_tables.table(rows, 0.3) == ""
    alone = gpu_tables.table([row for row in rows if row["seed"] == 1], 0.05)
    assert "| -6% |" in alone  # no interval of one seed
    assert "better on 0, worse on 0" in alone
    assert [len(line.split("|")) for line in text.splitlines()[:4]] == [16] * 4
    assert all(a != b for a, b in pairwise(text.splitlines()))
