"""Scoring finds the loss of each example, and the size of its gradient, in a forward alone."""

from finesieve.scoring.batches import ScoringPass

__all__ = ["ScoringPass"]
