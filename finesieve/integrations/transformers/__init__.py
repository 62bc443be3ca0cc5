"""A sieve in Hugging Face's Trainer, and in the trainers that are built on it."""
