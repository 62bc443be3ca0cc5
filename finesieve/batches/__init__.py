"""Batches are taken apart into examples, padded, kept waiting and put together again."""
