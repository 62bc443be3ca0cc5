"""Every golden run makes what is on record: the same batches, weights, stages and parameters.

If one of these fails after a refactoring, the refactoring changed behaviour. If the change is
intended, see the package's docstring for how to record anew.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.compare import Record, differences, fingerprint, load, save
from tests.golden.record import FOLDER, compared, main, other_version
from tests.golden.runs import RUNS


@pytest.mark.parametrize("name", RUNS)
def test_run_is_as_recorded(name: str) -> None:
    golden = RUNS[name]
    for package in golden.hosts:
        pytest.importorskip(package)
    skipped = other_version(golden)
    if skipped:
        pytest.skip(skipped)
    wrong, exact = compared(golden, golden.run())
    how = "in every bit" if exact else "within the tolerance for other machines and versions"
    assert not wrong, f"{name} is not as recorded ({how}): " + "; ".join(wrong)


@pytest.mark.parametrize("name", RUNS)
def test_record_is_worth_comparing_with(name: str) -> None:
    """Gates close where they should, weights differ from 1 where they should, examples are left
    out, and a run that was interrupted has the record of one that was not."""
    golden = RUNS[name]
    record, _ = load(FOLDER / f"{name}.npz")
    assert tuple(record.stages[:, 0]) == golden.stages
    drawn, scored, trained = record.counts
    real = record.ids >= 0
    assert real.sum() == trained
    assert trained < drawn or golden.stages == (1,)
    assert (scored > 0) == (golden.stages not in ((1,), (3,), (3, 1)))
    assert len(record.ids) == len(record.weights) == record.shapes[:, 0].sum()
    ordinary = np.count_nonzero(record.weights[real] == 1)
    assert not record.weights[~real].any()
    if golden.weighted:
        assert ordinary < 0.8 * real.sum()
    else:
        assert ordinary == real.sum()
    assert np.isfinite(record.parameters).all()
    if golden.same_as is not None:
        whole, _ = load(FOLDER / f"{golden.same_as}.npz")
        assert not differences(whole, record, exact=True)


def test_every_record_has_its_run_and_all_are_small() -> None:
    files = list(FOLDER.glob("*"))
    assert sorted(f.name for f in files) == sorted(f"{name}.npz" for name in RUNS)
    assert sum(f.stat().st_size for f in files) < 200_000


def test_one_file_alone_calls_the_library() -> None:
    using = [
        path.name
        for path in Path(__file__).parent.glob("*.py")
        if re.search(r"^\s*(from|import) finesieve", path.read_text(encoding="utf-8"), re.M)
    ]
    assert using == ["api.py"]


def test_runs_depend_on_no_random_state_and_leave_it_alone() -> None:
    threads = torch.get_num_threads()
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        found.append(RUNS["epochs"].run())
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        assert states[:2] == after[:2]
        assert torch.equal(states[2], after[2])
    assert not differences(*found, exact=True)
    assert torch.get_num_threads() == threads


def test_no_run_goes_by_what_steps_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a launch is all that a step takes, survivors would come in larger batches."""
    monkeypatch.setattr(
        "finesieve.costs.timer.ProgramTimer.between", lambda self, first, last: float(last > first)
    )
    wrong, _ = compared(RUNS["paper"], RUNS["paper"].run())
    assert not wrong


@pytest.fixture
def record() -> Record:
    return load(FOLDER / "by-hand.npz")[0]


@pytest.mark.parametrize("exact", [True, False])
def test_integers_have_to_agree_on_every_machine(record: Record, exact: bool) -> None:
    assert not differences(record, record, exact)
    for field in ("ids", "shapes", "stages", "counts"):
        changed = getattr(record, field).copy()
        changed.reshape(-1)[-1] += 1
        (told,) = differences(record, replace(record, **{field: changed}), exact)
        assert told.startswith(f"{field}: 1 of {changed.size} differ; first at {changed.size - 1}")
    shorter = replace(record, ids=record.ids[:-1], weights=record.weights[:-1])
    assert len(differences(record, shorter, exact)) == 2
    assert "found nothing" in differences(record, shorter, exact)[0]


@pytest.mark.parametrize("field", ["weights", "parameters"])
def test_real_numbers_agree_in_every_bit_or_within_a_tolerance(record: Record, field: str) -> None:
    values = getattr(record, field)
    at = int(np.abs(values).argmax())
    for factor, told_exactly, told_roughly in ((1 + 2e-7, 1, 0), (1 + 5e-5, 1, 0), (1.01, 1, 1)):
        changed = values.copy()
        changed[at] *= np.float32(factor)
        other = replace(record, **{field: changed})
        assert len(differences(record, other, exact=True)) == told_exactly
        assert len(differences(record, other, exact=False)) == told_roughly


def test_a_record_comes_back_as_it_was_written(record: Record, tmp_path: Path) -> None:
    made = fingerprint(["numpy"])
    save(tmp_path / "a.npz", record, made)
    again, where = load(tmp_path / "a.npz")
    assert not differences(record, again, exact=True)
    assert where == made
    assert {"capability", "machine", "processor", "torch", "numpy"} == set(where)


def test_the_command_checks_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.golden.record.FOLDER", tmp_path)
    assert main(["--check", "full"]) == 1
    assert main(["full"]) == 0
    assert main(["--check", "full"]) == 0
    record, made = load(tmp_path / "full.npz")
    save(tmp_path / "full.npz", replace(record, counts=record.counts + 1), made)
    assert main(["--check", "full"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split("; ")[0] for line in said[:1] + said[2:]] == [
        "full: no record",
        "full: the same, to the bit",
        "full: counts: 3 of 3 differ",
    ]
    with pytest.raises(SystemExit):
        main(["fulll"])
    assert [path.name for path in tmp_path.iterdir()] == ["full.npz"]
