"""`finesieve.predictor` is in `finesieve.gates.predictor` and
`finesieve.methods.baselines.naive_bayes` now."""

from finesieve._deprecated import moved
from finesieve.gates.predictor import Predictor, SizeRegression, hashed
from finesieve.methods.baselines.naive_bayes import NaiveBayes

__all__ = ["NaiveBayes", "Predictor", "SizeRegression", "hashed"]

moved(
    "finesieve.predictor",
    "in finesieve.gates.predictor and finesieve.methods.baselines.naive_bayes",
)
