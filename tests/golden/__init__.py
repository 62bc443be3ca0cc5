"""Golden runs: small trainings whose every batch, weight and final parameter is on record.

They exist so that the library can be refactored: a change that is not meant to alter behaviour must
reproduce all of them. Other tests check properties; these check that nothing at all has moved.

- `api.py` is the only file here that calls finesieve. If a public name changes, edit it alone.
- `runs.py` and `host_runs.py` make the runs, with what `kit.py` and `material.py` hold.
- `compare.py` says what a record holds and when two of them are the same.
- `records/NAME.npz` holds the records; `record.py` writes them.

After a change of behaviour that is intended, look at what differs, and record anew what should:

    python -m tests.golden.record --check       # what differs, without writing anything
    python -m tests.golden.record NAME [NAME]   # write these records anew; without names, all

Ids, shapes, stages and counts must be equal everywhere. Weights and parameters must be equal in
every bit where the versions of torch, numpy and the host and the kind of processor are those of the
record, and nearly equal elsewhere. So record and refactor on the same machine.

Then say in the commit which records changed, and why. Never record anew to make a refactoring pass.
"""
