"""What a comparison says of its numbers, how times are made equal, and what is left on the disk."""

from __future__ import annotations

import json
import re
import signal
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finesieve.cli.comparing import compare as compare_module
from finesieve.cli.comparing.compare import compare, suite_of, told
from finesieve.cli.comparing.groups import RIVAL
from finesieve.cli.comparing.verdict import verdict
from finesieve.cli.config import Config
from finesieve.cli.main import main
from finesieve.cli.report.report import report
from finesieve.cli.results import pack_examples
from finesieve.cli.training.train import Interrupted
from finesieve.errors import ConfigError, ScoreError


def summary(name: str, loss: float, seconds: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A run's record; its loss differs a little between test examples and seeds."""
    trained = more.pop("trained", 1000)
    stages = [
        {"stage": s, "from_example": 300 * s - 300, "reason": "r"}
        for s in more.pop("stages", (1, 2, 3))
    ]
    dice = np.random.default_rng([seed, round(1000 * loss)])
    losses = loss + 0.01 * dice.standard_normal(500)
    return {
        "role": "claim",
        "set": "t",
        "name": name,
        "method": name.split()[0],
        "seed": seed,
        "stages": stages,
        "eval": {"accuracy": 1 - loss, "loss": loss, "n": 500},
        "eval_examples": pack_examples(losses, losses < 0.7),
        "examples": {"drawn": 1000, "trained": trained, "scored": 0},
        "seconds": {
            "total": seconds,
            "train": seconds * 0.9,
            "score": 0.0,
            "decide": 0.0,
            "data": 0.0,
        },
        "config": {"lr": more.pop("lr", 1e-4)},
        **more,
    }


def text(*runs: dict[str, Any]) -> str:
    return told(list(runs), Config(train="t.csv"))


def three(name: str, loss: float, seconds: float, **more: Any) -> list[dict[str, Any]]:
    return [summary(name, loss, seconds, seed=s, **more) for s in range(3)]


def test_a_gain_is_called_better_and_a_loss_is_not() -> None:
    full = three("full", 0.2, 100)
    better = text(*full, *three("finesieve", 0.25, 50), *three(RIVAL, 0.3, 50))
    assert "finesieve against random at equal time: better; held-out loss -16.6%: a gain" in better
    worse = text(*full, *three("finesieve", 0.3, 50), *three(RIVAL, 0.25, 50))
    assert "worse; held-out loss +19.9%: a loss on this set." in worse


def test_unequal_times_open_gates_and_few_seeds_are_said() -> None:
    out = text(summary("finesieve", 0.2, 50, stages=(1,)), summary(RIVAL, 0.3, 60))
    assert "the seconds of random at equal time are off by up to 20%" in out
    assert "finesieve is the same as full here: its gates stayed open" in out
    assert "fewer than 3 seeds" in out
    one = text(summary("finesieve", 0.2, 50), summary(RIVAL, 0.3, 50))
    assert "one seed only, which proves nothing" in one
    assert "no gain shown." in one
    assert "Caution: fewer than 3 seeds" in one
    equal = text(*three("finesieve", 0.2, 50), *three(RIVAL, 0.2, 50))
    assert "Caution" not in equal
    assert "± 0.000" in equal


def test_a_random_subset_of_everything_is_told_to_be_an_order_only() -> None:
    ours = three("finesieve", 0.2, 50)
    for trained, said in ((1000, True), (990, False)):
        rival = [{**run, "subset": trained} for run in three(RIVAL, 0.3, 50, trained=trained)]
        assert ("trained on all examples too, in another order" in text(*ours, *rival)) == said


def test_speed_up_is_over_full_training() -> None:
    out = text(summary("full", 0.2, 100), summary("finesieve", 0.2, 40, trained=250))
    assert "| finesieve | 1 | 0.800 | 0.2000 | 40.0 | 2.5x | 25% | 0% |" in out
    assert "| finesieve | 1 | 0.800 | 0.2000 | 40.0 |  | 25% | 0% |" in text(
        summary("finesieve", 0.2, 40, trained=250)
    )
    assert RIVAL not in out  # no column for one that is not there


def test_a_comparison_is_a_suite_of_one_set() -> None:
    config = Config(train="a/b/t.jsonl.gz", eval=("e.csv",), lr=3e-4, threads=2)
    suite = suite_of(config, ["full", "finesieve"], 3, {"train": 0.3}, True)
    assert (suite.claim, suite.methods) == (("t",), ("full", "finesieve", RIVAL))
    assert suite.settings == {"finesieve": {"train": 0.3}}
    assert (suite.seeds, suite.config["lr"], suite.config["threads"]) == (3, 3e-4, 2)
    assert RIVAL not in suite_of(config, ["full", "finesieve"], 1, {}, False).methods
    assert RIVAL not in suite_of(config, ["full"], 1, {}, True).methods
    for names, seeds, settings, message in (
        ([], 1, {}, "--methods names none"),
        (["full"], 0, {}, "--seeds is 0"),
        (["finesieve"], 1, {"trian": 0.3}, "trian"),
        (["ful"], 1, {}, "did you mean 'full'"),
    ):
        with pytest.raises(ConfigError, match=message):
            suite_of(config, names, seeds, settings, True)


class FakeTraining:
    """Stands for `prepare` and `train`: seconds by a formula, and a folder with its summary."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pace, self.fixed, self.prepared = 1.08, 2.0, 0  # of the rival, beside the others'
        self.fail: dict[str, BaseException] = {}  # by method, or by folder
        self.digest, self.resumed = "of the data", []  # folders
        self.runs: list[tuple[str, int, float]] = []
        self.config = Config(train="t.csv")
        monkeypatch.setattr(compare_module, "prepare", self._prepare)
        monkeypatch.setattr(compare_module, "train", self._train)

    def _prepare(self, config: Config) -> Any:
        self.prepared += 1
        return type("Data", (), {"notes": ["a note"], "digest": self.digest})()

    def _train(
        self, config: Config, folder: str, resume: bool = False, **more: Any
    ) -> dict[str, Any]:
        share = config.settings.get("share", {"full": 1.0}.get(config.method, 0.3))
        self.runs.append((config.method, config.seed, share))
        path = Path(folder)
        if resume:
            self.resumed.append(path.name)
        path.mkdir(parents=True, exist_ok=resume)
        (path / "checkpoint.pt").write_text("half")
        if failure := self.fail.get(config.method) or self.fail.get(path.name):
            raise failure
        seconds = 100 * share
        if config.method == "random":
            seconds = self.pace * seconds + self.fixed
        shown = summary(
            config.method,
            0.2 if config.method == "finesieve" else 0.3,
            seconds,
            config.seed,
            trained=round(1000 * share),
            scored_by=len(self.runs),
            stages=(1, 2, 3) if config.method == "finesieve" else (1,),
        )
        for key in ("role", "set", "name"):
            del shown[key]
        shown["config"] = config.as_dict()
        (path / "checkpoint.pt").unlink()
        (path / "summary.json").write_text(json.dumps(shown))
        return shown


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    return FakeTraining(monkeypatch)


def run(fake: FakeTraining, output: Path | None, **more: Any) -> list[dict[str, Any]]:
    given = {"seeds": 3, "settings": {}, "quiet": True, **more}
    return compare(fake.config, ["full", "finesieve"], output=output and str(output), **given)


def test_equal_time_is_met_by_trying_again_and_one_folder_a_run_is_left(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rival that costs 8 % more an example, and 2 s besides."""
    records = run(fake, tmp_path / "out")
    assert fake.prepared == 1
    rivals = [r for r in records if r["name"] == RIVAL]
    assert all(abs(r["equal_time"]["ratio"] - 1) <= 0.03 for r in rivals)
    assert [r["equal_time"]["attempts"] for r in rivals] == [2, 1, 1]  # others know the pace
    folders = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert folders == sorted(
        f"{m}-seed{s}" for s in range(3) for m in ("full", "finesieve", "random-at-equal-time")
    )
    kept = json.loads((tmp_path / "out/random-at-equal-time-seed0/summary.json").read_text())
    assert kept["config"]["settings"]["share"] == rivals[0]["equal_time"]["share"] < 0.3
    assert json.loads((tmp_path / "out/compare.json").read_text()) == records
    assert all(not r["folder"].endswith(("try2", "try3")) for r in records)
    said = capsys.readouterr()
    table, words = (tmp_path / "out/compare.md").read_text().strip().split("\n\n", 1)
    assert table.startswith("| method | seeds |")
    assert words in said.out
    assert "a note" in said.err
    assert "Caution" not in said.out


def test_a_time_that_no_try_meets_is_said(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.pace, fake.fixed = 1.0, 36.0  # more than finesieve takes, however little is trained on
    records = run(fake, None, seeds=1)
    (rival,) = (r for r in records if r["name"] == RIVAL)
    assert rival["equal_time"]["attempts"] == 3
    assert [m for m, _, _ in fake.runs].count("finesieve") == 1  # a fresh run is not repeated
    out = capsys.readouterr().out
    assert "the seconds of random at equal time are off by up to" in out
    assert "| time off by up to" in out


def test_the_report_says_what_the_terminal_said(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seeds, pace in ((3, 1.0), (2, 1.3)):
        fake.pace, fake.fixed = pace, 0.0 if pace == 1.0 else 40.0
        output = tmp_path / f"out{seeds}"
        records = run(fake, output, seeds=seeds)
        report([str(output)], str(tmp_path / "page.html"))
        page = unescape((tmp_path / "page.html").read_text())
        said = "\n\n".join(re.findall(r'<p class="verdict">(.*?)</p>', page))
        assert said == verdict(records)
        assert f"{verdict(records)}\n" in capsys.readouterr().out
        assert ("Caution" in said) == (seeds == 2)


def test_a_method_that_fails_is_shown_and_the_rest_go_on(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fail["full"] = ScoreError("the loss is not finite")
    output = tmp_path / "out"
    command = ["compare", "--train", fake.config.train, "--quiet", "--output", str(output)]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert re.search(r"^seeds +failed +1 +1$", out, re.M)
    assert "failed: full seed 0: the loss is not finite" in out
    fake.fail["full"] = ConfigError("the model has 6 layers")
    assert main([*command[:-1], str(tmp_path / "other")]) == 2
    assert "the model has 6 layers" in capsys.readouterr().err


def test_interrupted_it_keeps_what_is_finished(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes in the rival's second try: its first is what is left of it."""
    fake.fail["random-at-equal-time-seed0.try2"] = Interrupted(signal.SIGTERM)
    command = ["compare", "--train", fake.config.train, "--quiet", "--output", str(tmp_path / "o")]
    assert main(command) == 128 + signal.SIGTERM
    assert f"what is finished is in {tmp_path / 'o'}. Go on with:\n  finesieve compare" in (
        capsys.readouterr().err
    )
    assert sorted(p.name for p in (tmp_path / "o").iterdir() if p.is_dir()) == [
        "finesieve-seed0",
        "full-seed0",
        "random-at-equal-time-seed0",
    ]
    assert (tmp_path / "o/random-at-equal-time-seed0/summary.json").exists()


def test_an_interrupted_comparison_goes_on(
    fake: FakeTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is finished is not run again, what was under way goes on from its checkpoint."""
    output = tmp_path / "o"
    command = ["compare", "--train", fake.config.train, "--quiet", "--output", str(output)]
    assert main([*command, "--resume"]) == 2
    assert "nothing to go on with" in capsys.readouterr().err
    fake.fail["finesieve"] = Interrupted(signal.SIGINT)
    assert main(command) == 128 + signal.SIGINT
    assert main(command) == 2
    assert "add --resume to go on with the comparison in it" in capsys.readouterr().err
    assert main([*command, "--resume", "--lr", "3e-4"]) == 2
    assert "another comparison (lr: 0.0001 then, 0.0003 now)" in capsys.readouterr().err
    fake.fail.clear()
    fake.digest = "of other data"
    assert main([*command, "--resume"]) == 2
    assert "the training data have changed" in capsys.readouterr().err
    fake.digest, fake.runs = "of the data", []
    assert main([*command, "--resume", "--seeds", "2"]) == 0
    assert [m for m, seed, _ in fake.runs if seed == 0 and m != "random"] == ["finesieve"]
    assert fake.resumed == ["finesieve-seed0"]
    out = capsys.readouterr().out
    assert re.search(r"^seeds +2 +2 +2$", out, re.M)
    fake.runs = []
    assert main([*command, "--resume", "--seeds", "2"]) == 0  # nothing is left to do
    assert not fake.runs
    assert capsys.readouterr().out == out


def test_settings_reach_finesieve_alone(fake: FakeTraining) -> None:
    records = run(fake, None, seeds=1, settings={"predictor_bits": 12}, equal_time=False)
    assert {r["name"]: r["config"]["settings"] for r in records} == {
        "full": {},
        "finesieve": {"predictor_bits": 12},
    }


def test_a_terminal_has_a_column_a_method_and_no_line_is_wider_than_it() -> None:
    runs = [
        *three("full", 0.2, 100),
        *three("finesieve", 0.25, 50, trained=300),
        *three(RIVAL, 0.3, 50, trained=500),
        summary("paper", 0.4, 70, failed="RuntimeError: out of memory"),
    ]
    config = Config(train="t.csv")
    table, *rest = told(runs, config, width=80).split("\n\nt.csv: ")
    assert rest == told(runs, config).split("\n\nt.csv: ")[1:]  # the same words
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["full", "finesieve", "random", "at", "equal", "time", "paper"]
    told_of = {line.split("  ")[0]: line.split() for line in lines}
    assert told_of["seeds"] == ["seeds", "3", "3", "3", "failed"]
    assert told_of["seconds"][1:] == ["100.0", "50.0", "50.0"]
    assert told_of["trained"][1:] == ["100%", "30%", "50%"]
    narrow = told(runs, config, width=40).split("\n\nt.csv: ")[0]
    assert max(map(len, narrow.splitlines())) <= 40
    assert narrow.count("held-out loss") > 1  # methods that do not fit go below
