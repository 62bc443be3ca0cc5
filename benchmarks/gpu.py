"""Is finesieve worth it on this GPU? Measures it in about ten minutes, and says so in words.

    python benchmarks/gpu.py --prepare FOLDER [--data-dir DATA]
    python benchmarks/gpu.py --inputs FOLDER --minutes 8 --output gpu.json

The first command makes the inputs where files and packages are at hand (`finesieve[demo]`); they
take less than 50 MB. The second needs torch, transformers and numpy only. It runs as many parts as
fit into the minutes, the most important first, writes each result at once and prints a sentence on
it; the same command goes on where an earlier one ended. Random subsets get finesieve's seconds, and
everything but "plain" has the same fitted head.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:  # from a checkout that was not installed, too
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import finesieve  # noqa: E402
from benchmarks.on_gpu.inputs import prepare  # noqa: E402
from benchmarks.on_gpu.parts import QUICK, Check, Scale  # noqa: E402


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what the figures were measured on."""
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "finesieve": finesieve.__version__,
    }


def check(
    inputs: Path, output: Path, minutes: float, device: torch.device, quick: bool, only: list[str]
) -> None:
    """Runs the parts that are not in `output` yet and fit into the minutes."""
    begin = time.perf_counter()
    found: dict[str, Any] = {"command": _command(), "machine": machine(device), "parts": {}}
    if output.exists():
        found = json.loads(output.read_text(encoding="utf-8"))
        if found["machine"] != machine(device):
            raise SystemExit(
                f"{output} was measured on {found['machine']}, this is {machine(device)}: give "
                "another --output"
            )
    parts, left_out, pace = found["parts"], [], 1.0
    for part in Check(inputs, device, QUICK if quick else Scale()).parts():
        if only and not any(part.name.startswith(x) for x in only):
            continue
        if "error" not in parts.get(part.name, {"error": "not run yet"}):
            _say(part, parts[part.name])
            continue
        left = 60 * minutes - (time.perf_counter() - begin)
        if pace * part.guess > left:
            left_out.append(part.name)
            continue
        start = time.perf_counter()
        try:
            parts[part.name] = part.run(parts)
        except Exception as error:  # one part that fails does not take the others along
            parts[part.name] = {"error": f"{type(error).__name__}: {error}"}
        took = time.perf_counter() - start
        pace = max(pace, took / part.guess) if took > 5 else pace
        parts[part.name]["took"] = round(took, 1)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        _say(part, parts[part.name])
    if left_out:
        print(f"No time was left for {', '.join(left_out)}; the same command goes on with them.")


def _command() -> str:
    """The command without paths of this machine."""
    words = [x for x in sys.argv[1:] if not x.startswith(("/", "."))]
    return " ".join(["python", "benchmarks/gpu.py", *words])


def _say(part: Any, record: dict[str, Any]) -> None:
    text = f"{part.name}: {record['error']}" if "error" in record else part.say(record)
    print(text, flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="make the inputs, no more")
    parser.add_argument("--data-dir", type=Path, help="with sst2, clickbait and snips (see docs)")
    parser.add_argument("--inputs", type=Path, metavar="FOLDER", help="what --prepare has made")
    parser.add_argument("--output", type=Path, default=Path("out/gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", default=[], help="parts whose names begin so")
    parser.add_argument("--device", help="cuda where there is one, by default")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny models, to see that all runs; figures mean little",
    )
    args = parser.parse_args()
    if args.prepare:
        prepare(args.prepare, args.data_dir)
        return
    if args.inputs is None or not list(args.inputs.glob("*.npz")):
        parser.error(
            f"--inputs is {args.inputs}; expected the folder that --prepare FOLDER has made"
        )
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        print("No GPU is at hand: this is the CPU, and the minutes will not go far.")
    check(args.inputs, args.output, args.minutes, device, args.quick, args.only)


if __name__ == "__main__":
    main()
