"""`finesieve.rows` is in `finesieve.batches.carry`, `finesieve.batches.codec` and
`finesieve.batches.rows` now."""

from finesieve._deprecated import moved
from finesieve.batches.carry import (
    IDS,
    PREFIX,
    WEIGHTS,
    Ride,
    TensorBatch,
    inputs,
    is_filler,
    ride,
)
from finesieve.batches.codec import Codec
from finesieve.batches.rows import Rows, rows_from_state, rows_state

__all__ = [
    "IDS",
    "PREFIX",
    "WEIGHTS",
    "Codec",
    "Ride",
    "Rows",
    "TensorBatch",
    "inputs",
    "is_filler",
    "ride",
    "rows_from_state",
    "rows_state",
]

moved(
    "finesieve.rows",
    "in finesieve.batches.carry, finesieve.batches.codec and finesieve.batches.rows",
)
