"""The sieve filters a stream of batches: it decides, learns from losses and keeps its state."""
