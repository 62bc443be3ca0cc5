"""Costs: what a token takes in seconds, what decisions go by, and the ledger that people read."""
