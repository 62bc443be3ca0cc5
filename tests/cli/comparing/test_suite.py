"""Suite files: what is wrong in one, settings of single sets, derived files."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from finesieve import ConfigError
from finesieve.cli.comparing.suite import Derived, Files, read_suite
from finesieve.cli.main import main
from tests.cli.comparing.suites import SUITE

WRONG = [
    ('methods = ["full"', 'methods = ["ful"', "did you mean 'full'"),
    ('claim = ["two"]', 'claim = ["tow"]', "did you mean 'two'"),
    ('claim = ["two"]', "", "no `claim` sets"),
    ('claim = ["two"]', 'claim = ["two"]\ntuning = ["two"]', "both tune and claim"),
    ("max_length", "max_lenght", "did you mean 'max_length'"),
    ('train = "train.jsonl"', "", "has no `train`"),
    ('"full", "finesieve", ', "", "both must be among the methods"),
    ('claim = ["two"]', 'claim = ["two"]\ntuned_by = "ful"', "tuned_by: 'ful' is unknown"),
    ("[settings.finesieve]", "[settings.finesive]", "[settings]: 'finesive' is unknown"),
    (
        "[settings.finesieve]",
        "[points.ful]\nlr = 1e-4\n[settings.finesieve]",
        "[points]: 'ful' is unknown",
    ),
    (
        "[settings.finesieve]",
        "[points.full]\nlrr = 1e-4\n[settings.finesieve]",
        "[points.full]: 'lrr' is unknown",
    ),
    ("lr = 3e-4", "lr = 3e-4\n[grid]\nlr = [1e-4, 2e-4]", "no `tuning` sets"),
    ("predictor_bits = 12", "predictor_bitz = 12", "predictor_bitz"),
    ('name = "small"', "name = small", "no valid TOML"),
    (
        'train = "train.jsonl"',
        'train = "train.jsonl"\nsettings = { finesiev = {} }',
        "did you mean 'finesieve'",
    ),
    (
        'train = "train.jsonl"',
        'train = "train.jsonl"\nsettings = { finesieve = { audits = 1 } }',
        "audits",
    ),
    ("claim", "seeds = 0\nclaim", "seeds is 0"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_what_is_wrong_in_a_suite_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    text = re.sub(', "decoys[^]]*', "", SUITE)
    assert old in text
    (tmp_path / "s.toml").write_text(text.replace(old, new, 1))
    assert (
        main(
            [
                "bench",
                str(tmp_path / "s.toml"),
                "--data-dir",
                str(tmp_path),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_set_may_have_settings_of_its_own(tmp_path: Path, files: Path) -> None:
    text = re.sub(', "decoys[^]]*', "", SUITE)
    own = "settings = { finesieve = { audit = 0.1, predictor_bits = 9 } }"
    (tmp_path / "s.toml").write_text(
        f'{text}{own}\n[sets.other]\ntrain = "train.jsonl"\neval = ["eval.jsonl"]\n'
    )
    suite = read_suite(tmp_path / "s.toml")
    given = {
        (name, method): suite.config_of(name, method, 0, {}, Files(suite, files, tmp_path)).settings
        for name in ("two", "other")
        for method in ("finesieve", "full")
    }
    starts = {"2": 0.2, "3": 0.5}
    assert given == {
        ("two", "finesieve"): {"predictor_bits": 9, "starts": starts, "audit": 0.1},
        ("other", "finesieve"): {"predictor_bits": 12, "starts": starts},
        ("two", "full"): {},
        ("other", "full"): {},
    }


def test_a_method_may_have_another_number_of_epochs_or_no_head_start(
    tmp_path: Path, files: Path
) -> None:
    names = ["full", "full in 1 epoch", "finesieve", "finesieve without head start"]
    text = re.sub("methods = .*", f"methods = {names}", re.sub(', "decoys[^]]*', "", SUITE))
    text = text.replace("[config]", "[config]\nepochs = 3\nhead_start = 7", 1)
    (tmp_path / "s.toml").write_text(text)
    suite = read_suite(tmp_path / "s.toml")
    given = [suite.config_of("two", n, 0, {}, Files(suite, files, tmp_path)) for n in names]
    assert [(c.method, c.epochs, c.head_start) for c in given] == [
        ("full", 3, 7),
        ("full", 1, 7),
        ("finesieve", 3, 7),
        ("finesieve", 3, 0),
    ]
    (tmp_path / "s.toml").write_text(text.replace("in 1 epoch", "in 0 epochs"))
    with pytest.raises(ConfigError, match="full in 0 epochs"):
        read_suite(tmp_path / "s.toml")


def test_missing_data_and_suite_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(re.sub(', "decoys[^]]*', "", SUITE))
    command = ["bench", str(tmp_path / "s.toml"), "--output", str(tmp_path / "out"), "--data-dir"]
    assert main([*command, str(tmp_path)]) == 2
    assert "lacks eval.jsonl, train.jsonl" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no suite file"):
        read_suite(tmp_path / "none.toml")


def test_derived_files(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 5} for i in range(1000)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)
    kept = Derived("a.jsonl.gz", {"0": "bad", "4": "good"})
    kept.write(tmp_path, tmp_path / "b.jsonl")
    made = [json.loads(x) for x in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert len(made) == 400
    assert all(r["label"] == ("bad" if int(r["text"][1:]) % 5 == 0 else "good") for r in made)
    Derived("a.jsonl.gz", noise=0.2).write(tmp_path, tmp_path / "c.jsonl")
    made = [json.loads(x) for x in (tmp_path / "c.jsonl").read_text().splitlines()]
    wrong = sum(r["label"] != o["label"] for r, o in zip(made, rows, strict=True))
    assert 160 <= wrong <= 240
    assert {r["label"] for r in made} == {0, 1, 2, 3, 4}


def test_a_derived_file_takes_its_labels_from_another_column(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 5, "crowd": i % 3} for i in range(30)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)
    Derived("a.jsonl.gz", column="crowd").write(tmp_path, tmp_path / "b.jsonl")
    made = [json.loads(x) for x in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [r["label"] for r in made] == [r["crowd"] for r in rows]
    with pytest.raises(ConfigError, match="no column 'crowed'; there are text, label, crowd"):
        Derived("a.jsonl.gz", column="crowed").write(tmp_path, tmp_path / "c.jsonl")
