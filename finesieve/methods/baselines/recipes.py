"""Holds the settings of each baseline as a frozen dataclass that cites its paper."""

from __future__ import annotations

from dataclasses import dataclass

from finesieve.errors import check_share
from finesieve.gates.forward import PredictorGate
from finesieve.gates.simple import Open
from finesieve.methods.baselines import infobatch, loss_rules, rho_loss
from finesieve.methods.baselines import paper as ouyang
from finesieve.methods.baselines.naive_bayes import NaiveBayes
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe, default_of
from finesieve.stages.policy import Fixed


@dataclass(frozen=True)
class Paper(Recipe):
    """Ouyang et al. 2023 (arXiv 2207.14386) with its plain defects mended: half batches instead of
    single examples in stage 3, no second forward, schedule by share of the stream, an audit, and a
    naive Bayes that takes absent tokens for no evidence. Unweighted.

    Args:
        warmup: share of the stream that stage 1 lasts, in (0, 1].
        log_loss: the predictor's mean log-loss, in nats, at which stage 3 begins.
        history: losses of stage 1 whose mean becomes the threshold.
        audit: share that passes the forward gate whatever the predictor says, in [0, 1].
        vocabulary: token ids that the naive Bayes tells apart.
        window: scored examples over which the log-loss is taken.
    """

    warmup: float = default_of(ouyang.Paper, "warmup")
    log_loss: float = default_of(ouyang.Paper, "log_loss")
    history: int = default_of(ouyang.LossThreshold, "window")
    audit: float = default_of(PredictorGate, "audit")
    vocabulary: int = default_of(NaiveBayes, "vocabulary")
    window: int = default_of(ouyang.Paper, "window")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `paper`."""
        bayes = NaiveBayes(self.vocabulary, absent=False)
        forward = PredictorGate(bayes, ouyang.CutOff(0.5), self.audit, seed)
        return Method(
            "paper",
            forward,
            ouyang.LossThreshold(self.history),
            ouyang.Paper(self.warmup, self.log_loss, self.window),
            batch_share=0.5,
        )


@dataclass(frozen=True)
class Authors(Recipe):
    """Ouyang et al. 2023 as the authors' scripts do it: frozen threshold, naive Bayes on the
    presence of every word piece, without label or audit, a second forward for what is trained on,
    single examples in stage 3, learning rate by optimizer steps (so that the single examples use
    it up). Departs from them in padding (to the batch, not to 512 tokens) and in training on the
    rest of the queue at the end.

    Args:
        warmup, log_loss, history, vocabulary, window: as in `Paper`.
    """

    warmup: float = Paper.warmup
    log_loss: float = Paper.log_loss
    history: int = Paper.history
    vocabulary: int = Paper.vocabulary
    window: int = Paper.window

    def build(self, seed: int = 0) -> Method:
        """Returns the method `authors`."""
        bayes = NaiveBayes(self.vocabulary, absent=True)
        return Method(
            "authors",
            PredictorGate(bayes, ouyang.CutOff(0.5), 0.0, seed),
            ouyang.LossThreshold(self.history),
            ouyang.Paper(self.warmup, self.log_loss, self.window),
            batches={3: 1},
            schedule_by="steps",
        )


@dataclass(frozen=True)
class Quantile(Recipe):
    """The examples with the highest losses, unweighted. Here as a warning: it can collapse.

    Args:
        train: share that is kept, in (0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.2
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `quantile`."""
        gate = loss_rules.Quantile(self.train)
        return Method("quantile", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class SelectiveBackprop(Recipe):
    """Jiang et al. 2019: everything is scored, kept with probability percentile ** beta,
    unweighted, full batches. Departs from the paper in a short warm-up on everything, in which the
    history fills; the paper fills it with the first batches' forwards.

    Args:
        beta: selectivity, positive.
        window: losses that are remembered.
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    beta: float = default_of(loss_rules.SelectiveBackprop, "beta")
    window: int = default_of(loss_rules.SelectiveBackprop, "window")
    warmup: float = 0.02

    def build(self, seed: int = 0) -> Method:
        """Returns the method `selective-backprop`."""
        gate = loss_rules.SelectiveBackprop(self.beta, self.window, seed)
        return Method("selective-backprop", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class TopLoss(Recipe):
    """Kawaguchi & Lu 2020: the share of each pool with the highest losses, unweighted. Departs
    from the paper in choosing from the sieve's pools (256 examples) instead of mini-batches.

    Args:
        train: share that is kept, in (0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.3
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `top-loss`."""
        gate = loss_rules.TopLoss(self.train)
        return Method("top-loss", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class LossSampling(Recipe):
    """Sampling in proportion to the loss with inverse-probability weights, everything scored:
    `TopLoss` made unbiased (Katharopoulos & Fleuret 2018).

    Args:
        train: share that is kept, in (0, 1].
        floor: least probability, in [0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = 0.3
    floor: float = default_of(loss_rules.LossSampling, "floor")
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `loss-sampling`."""
        gate = loss_rules.LossSampling(self.train, self.floor, seed)
        return Method("loss-sampling", Open(), gate, Fixed({2: self.warmup}))


@dataclass(frozen=True)
class InfoBatch(Recipe):
    """Qin et al. 2024 (arXiv 2303.04947): from the second pass on a share of the examples whose
    last loss was below the mean is left out, the rest of them weighs more; nothing is scored.

    Args:
        share: of those examples that is left out, in (0, 1).
        until: share of the stream from which on everything is trained on again.
    """

    share: float = default_of(infobatch.InfoBatch, "share")
    until: float = default_of(infobatch.Annealed, "until")

    def build(self, seed: int = 0) -> Method:
        """Returns the method `infobatch`."""
        gate = infobatch.InfoBatch(self.share, seed)
        policy = infobatch.Annealed(self.until)
        return Method("infobatch", gate, Open(), policy, needs_ids=True)


@dataclass(frozen=True)
class RhoLoss(Recipe):
    """Mindermann et al. 2022 (arXiv 2206.07137): everything is scored, the share with the highest
    reducible loss is trained on. The reference model is of the same kind, trained for one pass on
    a holdout of the training examples, on which the model itself is then not trained.

    Args:
        train: share that is kept, in (0, 1].
        holdout: share of the training examples for the reference model, in (0, 1].
        warmup: share of the stream before the gate closes, in [0, 1].
    """

    train: float = default_of(rho_loss.Reducible, "share")
    holdout: float = 0.2
    warmup: float = 0.05

    def build(self, seed: int = 0) -> Method:
        """Returns the method `rho-loss`."""
        return Method(
            "rho-loss",
            Open(),
            rho_loss.Reducible(self.train),
            Fixed({2: self.warmup}),
            reference=check_share("holdout", self.holdout),
        )
