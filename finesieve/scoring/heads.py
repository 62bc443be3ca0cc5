"""Tasks: the loss of each example and the size of its gradient, from what a model puts out.

The size is the norm of the example's loss differentiated with respect to its row of the model's
output, in closed form: no backward pass. Every formula here is held against autograd by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finesieve.batches.device import to_device
from finesieve.errors import ConfigError, ScoreError
from finesieve.gates.features import (
    IGNORED,
    FeatureFunction,
    choice_features,
    target_features,
    token_features,
)
from finesieve.gates.protocol import FloatArray
from finesieve.scoring.head import Head as Head  # so that it can be imported from here, too
from finesieve.scoring.head import Unmet
from finesieve.scoring.outputs import check_classes, in_range, logits_of, output_of, target


def _norm(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


class SingleLabel(Head):
    """One class of several: softmax cross-entropy on logits [n, classes], labels int[n].

    Also multiple choice, where the classes are the choices.

    Args:
        labels: the key of the labels in a dict batch.
        smoothing: of the labels, in [0, 1), as in `torch.nn.CrossEntropyLoss`.
        class_weights: float[classes]; an example's loss is multiplied by the weight of its class
            (not divided by the batch's sum of them).
    """

    fits = True

    def __init__(
        self, labels: str = "labels", smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> None:
        if not 0.0 <= smoothing < 1.0:
            raise ConfigError(f"smoothing is {smoothing!r}; expected 0 to below 1")
        self.targets = (labels,)
        self.smoothing, self.class_weights = smoothing, class_weights
        self._classes = 2  # until logits were seen

    def _both(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        logits = logits_of(outputs, 2, "[n, classes]")
        self._classes = max(2, logits.shape[1])
        return logits.float(), target(batch, self.targets[0])

    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient."""
        logits, labels = self._both(outputs, batch)
        labels = to_device(labels, logits.device)
        losses = F.cross_entropy(
            logits, labels.long(), reduction="none", label_smoothing=self.smoothing
        )
        return losses if self.class_weights is None else losses * self._weights(labels)

    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example at its outputs, float32[n]."""
        logits, labels = self._both(outputs, batch)
        check_classes(labels, logits.shape[1], (len(logits),), ignored=False)
        seen, labels = labels, to_device(labels, logits.device)
        error = torch.log_softmax(logits, dim=1).exp()
        if self.smoothing:
            error -= self.smoothing / logits.shape[1]
        at = labels.long().clamp(0, logits.shape[1] - 1).unsqueeze(1)
        error.scatter_add_(1, at, torch.full_like(error[:, :1], self.smoothing - 1.0))
        size = in_range(_norm(error), seen, logits.shape[1])
        return size if self.class_weights is None else size * self._weights(labels)

    def unmet(self, targets: Mapping[str, Tensor], outputs: int) -> Unmet | None:
        """Returns the classes that are not the label of any example."""
        labels = targets[self.targets[0]].long()
        return Unmet(torch.bincount(labels, minlength=outputs) == 0, len(labels))

    def _weights(self, labels: Tensor) -> Tensor:
        assert self.class_weights is not None
        return to_device(self.class_weights.float(), labels.device)[labels]

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: tokens crossed with the label."""
        return token_features(labels=self.targets[0])

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns sqrt(2) * (1 - exp(-loss)): exact for two classes, an upper bound for more.

        With smoothing, which leaves a loss where nothing is left to learn, it is the size at which
        the wrong classes are alike: exact for two, of examples that are not fitted beyond the
        smoothed label. How many there are is known once the head has seen logits. Class weights
        cannot be told from a loss: hand the sizes over (`Sieve.loss(..., sizes=head.sizes(...))`).
        """
        if not self.smoothing:
            missing = 1.0 - np.exp(-np.maximum(loss, 0.0))
            return np.asarray(np.sqrt(2.0) * missing, dtype=np.float32)
        k, part = self._classes, self.smoothing / self._classes
        aim = 1.0 - self.smoothing + part  # for the labelled class
        p = aim * np.exp(-np.linspace(0.0, 30.0, 2001))  # its probability, from there to nothing
        rest = (1.0 - p) / (k - 1)
        losses = -aim * np.log(p) - part * (k - 1) * np.log(rest)
        sizes = (aim - p) * np.sqrt(k / (k - 1))
        return np.asarray(np.interp(loss, losses, sizes), dtype=np.float32)


class Choice(SingleLabel):
    """Multiple choice: logits [n, choices], labels int[n], tokens int[n, choices, length]."""

    def unmet(self, targets: Mapping[str, Tensor], outputs: int) -> Unmet | None:
        """Returns None: the choices are not classes, and the last layer has one output."""
        return None

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: the tokens of the right choice."""
        return choice_features(labels=self.targets[0])


class MultiLabel(Head):
    """Any number of classes: mean binary cross-entropy, logits and labels float[n, classes]."""

    fits = True
    begins_constant = True  # a new layer gives each of many rare labels a probability of a half

    def __init__(self, labels: str = "labels") -> None:
        self.targets = (labels,)

    def _both(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        logits = logits_of(outputs, 2, "[n, classes]")
        labels = to_device(target(batch, self.targets[0]), logits.device)
        if labels.shape != logits.shape:
            raise ScoreError(
                f"labels have shape {tuple(labels.shape)}; expected one 0 or 1 for each of the "
                f"model's outputs, {tuple(logits.shape)}"
            )
        return logits.float(), labels.float()

    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient."""
        logits, labels = self._both(outputs, batch)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)

    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example at its outputs, float32[n]."""
        logits, labels = self._both(outputs, batch)
        error = torch.sigmoid(logits) - labels
        return _norm(error) / logits.shape[1]

    def unmet(self, targets: Mapping[str, Tensor], outputs: int) -> Unmet | None:
        """Returns the labels that are not set for any example."""
        labels = targets[self.targets[0]]
        return Unmet((labels > 0).sum(dim=0) == 0, len(labels), alone=True)

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: tokens crossed with the labels, taken together."""
        return token_features(labels=self.targets[0])


class Regression(Head):
    """Squared error, the mean over outputs: predictions [n] or [n, k], labels float likewise."""

    fits = True

    def __init__(self, labels: str = "labels") -> None:
        self.targets = (labels,)

    def _error(self, outputs: Any, batch: Any) -> Tensor:
        given = output_of(outputs)
        if isinstance(given, Tensor) and given.ndim == 1:
            given = given.unsqueeze(-1)
        predicted = logits_of(given, 2, "[n] or [n, k]").float()
        labels = to_device(target(batch, self.targets[0]), predicted.device).float()
        if labels.numel() != predicted.numel():
            raise ScoreError(
                f"labels have shape {tuple(labels.shape)}; expected {tuple(predicted.shape)}, as "
                "the model's predictions"
            )
        return predicted - labels.reshape(predicted.shape)

    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient."""
        return self._error(outputs, batch).square().mean(dim=1)

    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example at its outputs, float32[n]."""
        error = self._error(outputs, batch)
        return 2.0 * _norm(error) / error.shape[1]

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: tokens crossed with the value, in ten steps."""
        return token_features(labels=self.targets[0])

    def size_of_loss(self, loss: FloatArray) -> FloatArray:
        """Returns 2 sqrt(loss): exact for one output."""
        return np.asarray(2.0 * np.sqrt(np.maximum(loss, 0.0)), dtype=np.float32)


_MOST_LOGITS = 2**24  # of which `Tokens.both` takes the softmax at a time: 64 MB as float32


class Tokens(Head):
    """A class for every token: logits [n, length, classes], labels int[n, length].

    Token classification, sequence to sequence, and causal language models (`shift=True`: the
    logits at a place are about the next one). Places labelled -100, such as a prompt, are no
    targets; an example without any has loss and size 0.

    Args:
        shift: whether the logits at a place are about the next one.
        per: an example's loss is the mean over its target tokens (None), or their sum divided by
            this number. Plain training with a mean over all tokens of a batch weighs long examples
            more; with the average number of target tokens given here, so does this.
    """

    def __init__(
        self,
        labels: str = "labels",
        shift: bool = False,
        per: float | None = None,
        smoothing: float = 0.0,
    ) -> None:
        if per is not None and not per > 0:
            raise ConfigError(f"per is {per!r}; expected a number of tokens above 0, or None")
        if not 0.0 <= smoothing < 1.0:
            raise ConfigError(f"smoothing is {smoothing!r}; expected 0 to below 1")
        self.targets, self.shift, self.per = (labels,), shift, per
        self.fits = not shift
        self.smoothing = smoothing

    def count(self, labels: Tensor) -> Tensor:
        """Returns how many target tokens each example has, int64[n], for labels int[n, length]."""
        return ((labels[:, 1:] if self.shift else labels) != IGNORED).sum(dim=1)

    def _all(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [n, length, classes]; labels [n, length] where the batch has them; and how
        many tokens each example's sum is divided by, float32[n]."""
        logits = logits_of(outputs, 3, "[n, length, classes]")
        labels = target(batch, self.targets[0])
        count = to_device(self.count(labels).clamp(min=1).float(), logits.device)
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        if self.per is not None:
            count = torch.full_like(count, self.per)
        return logits, labels, count

    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient."""
        logits, labels, count = self._all(outputs, batch)
        labels = to_device(labels, logits.device)
        each = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.long().flatten(),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        return each.view(labels.shape).sum(dim=1) / count

    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example at its outputs, float32[n]."""
        return self.both(outputs, batch)[1]

    @torch.no_grad()
    def both(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns losses and sizes, float32[n] each, without gradient."""
        logits, labels, count = self._all(outputs, batch)
        check_classes(labels, logits.shape[2], tuple(logits.shape[:2]), ignored=True)
        if labels.device.type == "cpu":
            flat = (labels != IGNORED).flatten().nonzero().flatten()
        else:  # how many are targets is not known here without waiting for the device
            flat = torch.arange(labels.numel(), device=labels.device)
        seen, labels = labels, to_device(labels, logits.device)
        flat = to_device(flat, logits.device)
        row, place = flat // labels.shape[1], flat % labels.shape[1]
        at = labels[row, place].long().clamp(0, logits.shape[2] - 1)
        losses, squares = count.new_zeros(labels.shape), count.new_zeros(labels.shape)
        # Of target tokens alone, and so many at a time: the softmax of all would be large.
        most = max(1, _MOST_LOGITS // max(1, logits.shape[2]))
        for part in (slice(i, i + most) for i in range(0, len(row), most)):
            where = row[part], place[part]
            losses[where], squares[where] = self._each(logits[where], at[part])
        if seen.device.type != "cpu":
            none = labels == IGNORED
            losses = in_range(losses, labels, logits.shape[2]).masked_fill(none, 0.0)
            squares = squares.masked_fill(none, 0.0)
        return losses.sum(dim=1) / count, squares.sum(dim=1).sqrt() / count

    def unmet(self, targets: Mapping[str, Tensor], outputs: int) -> Unmet | None:
        """Returns the classes that are not the label of any token."""
        labels = targets[self.targets[0]].flatten().long()
        labels = labels[labels != IGNORED]
        return Unmet(torch.bincount(labels, minlength=outputs) == 0, len(labels))

    def features(self) -> FeatureFunction:
        """Returns what the predictor looks at: the tokens and the number of targets; of a language
        model the number alone."""
        if self.shift:
            return target_features(self.targets[0])
        return token_features(labels=None, targets=self.targets[0])

    def _each(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of each token and its ||softmax - target||^2, float32[tokens] each.

        Args:
            logits: float[tokens, classes].
            labels: int64[tokens].
        """
        log_p = torch.log_softmax(logits.float(), dim=-1)
        classes, eps = log_p.shape[-1], self.smoothing
        log_at = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        losses = -(1.0 - eps) * log_at
        if eps:
            losses = losses - eps * log_p.mean(dim=-1)
        # target = (1 - eps) onehot + eps / classes; the squared distance, multiplied out
        cross = 2.0 * ((1.0 - eps) * log_at.exp() + eps / classes)
        own = (1.0 - eps) ** 2 + 2.0 * (1.0 - eps) * eps / classes + eps * eps / classes
        squares = (log_p.exp().square().sum(dim=-1) - cross + own).clamp(min=0.0)
        return losses, squares


class Spans(Head):
    """Extractive question answering: the mean of the cross-entropies of start and end.

    Outputs with `start_logits` and `end_logits` [n, length]; targets int[n]. A position outside
    of the text is no target, as in Hugging Face's models.
    """

    targets = ("start_positions", "end_positions")

    def _parts(self, outputs: Any, batch: Any) -> list[tuple[Tensor, Tensor]]:
        parts = []
        for key, name in zip(self.targets, ("start_logits", "end_logits"), strict=True):
            logits = logits_of(outputs, 2, "[n, length]", name).float()
            at = to_device(target(batch, key), logits.device).long()
            if at.shape != (len(logits),):
                raise ScoreError(f"{key} has shape {tuple(at.shape)}; expected ({len(logits)},)")
            parts.append((logits, at.clamp(0, logits.shape[1])))
        return parts

    def losses(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the loss of each example, float32[n], with gradient."""
        both = [
            F.cross_entropy(logits, at, ignore_index=logits.shape[1], reduction="none")
            for logits, at in self._parts(outputs, batch)
        ]
        return (both[0] + both[1]) / 2.0

    def sizes(self, outputs: Any, batch: Any) -> Tensor:
        """Returns the gradient norm of each example at its outputs, float32[n]."""
        squares = []
        for logits, at in self._parts(outputs, batch):
            width = logits.shape[1]
            error = torch.softmax(logits, dim=1)
            inside = (at < width).float()
            spot = at.clamp(max=width - 1).unsqueeze(1)
            error.scatter_add_(1, spot, -torch.ones_like(error[:, :1]))
            squares.append(error.square().sum(dim=1) * inside)
        return (squares[0] + squares[1]).sqrt() / 2.0
