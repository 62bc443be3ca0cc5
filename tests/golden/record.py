"""Write the records of the golden runs, or compare the runs with them.

    python -m tests.golden.record [--check] [NAME ...]

Run it from the repository's root. With `--check` nothing is written, and the exit status is 1 if a
run differs from its record. Names are those of the files in `records/`; without any, all runs are
made. Record anew only after a change of behaviour that is intended (see the package's docstring).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden.compare import Record, differences, fingerprint, load, save
from tests.golden.kit import Golden
from tests.golden.runs import RUNS

FOLDER = Path(__file__).parent / "records"


def compared(golden: Golden, found: Record) -> tuple[list[str], bool]:
    """Compare a run with its record.

    Returns the differences, a sentence each, and whether every bit had to agree: so it is if the
    record was made by the same versions on a processor of the same kind.
    """
    recorded, made = load(FOLDER / f"{golden.name}.npz")
    exact = made == fingerprint(golden.hosts)
    return differences(recorded, found, exact), exact


def other_version(golden: Golden) -> str | None:
    """Say why the record cannot be compared with here, if a host's major version differs."""
    if golden.version_of is None:
        return None
    _, made = load(FOLDER / f"{golden.name}.npz")
    name, here = golden.version_of, fingerprint(golden.hosts)[golden.version_of]
    if made[name].split(".")[0] == here.split(".")[0]:
        return None
    return f"recorded with {name} {made[name]}; this is {here}, which trains differently by itself"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check records; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs; all by default")
    parser.add_argument("--check", action="store_true", help="compare only")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in RUNS]
    if unknown:
        parser.error(f"no run {', '.join(unknown)}; there are {', '.join(RUNS)}")
    failed = False
    for name in given.names or RUNS:
        golden = RUNS[name]
        path = FOLDER / f"{name}.npz"
        skipped = other_version(golden) if given.check and path.exists() else None
        if skipped:
            print(f"{name}: {skipped}")
            continue
        found = golden.run()
        if not given.check:
            save(path, found, fingerprint(golden.hosts))
            print(f"{name}: recorded, {path.stat().st_size} bytes")
        elif not path.exists():
            failed = True
            print(f"{name}: no record")
        else:
            wrong, exact = compared(golden, found)
            failed |= bool(wrong)
            how = "to the bit" if exact else "within the tolerance for other machines and versions"
            print(f"{name}: " + ("; ".join(wrong) if wrong else f"the same, {how}"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
