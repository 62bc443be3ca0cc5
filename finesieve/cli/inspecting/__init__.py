"""`finesieve inspect` and `finesieve clean`."""
