"""Scoring finds the loss of each example, and the size of its gradient, in a forward alone."""

from finesieve.scoring.batches import ScoringPass
from finesieve.scoring.cuts import cut_alike, cut_by_length

__all__ = ["ScoringPass", "cut_alike", "cut_by_length"]
