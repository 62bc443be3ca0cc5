"""Stages say when the gates close and open again, and what each of them costs."""

from finesieve.stages.automatic import Automatic
from finesieve.stages.policy import Fixed, Move, Stages, View, Work

__all__ = ["Automatic", "Fixed", "Move", "Stages", "View", "Work"]
