"""Costs: what a token takes in seconds, what the sieve goes by, and the ledger that people read."""
