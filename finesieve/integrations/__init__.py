"""Integrations put a sieve into the training loops of other libraries."""
