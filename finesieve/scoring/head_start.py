"""The head start: the last layer is fitted to the first examples before anything is trained.

With a random head the gradient norms of all examples are alike, so nothing can be told from them
until the head has learned, which takes most of a short run. Fitting the last linear layer to its
inputs for a few hundred examples costs their forward passes and about a second. It is no
selection: plain training can have it, too, and gains as much from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from finesieve.scoring.head import Unmet
from finesieve.scoring.last_layer import LastLayer

Mean = Callable[[list[float]], list[float]]
EXAMPLES = 512  # that the head is fitted to, by default
SHARE = 0.05  # of the stream, at the most, by default
FEWEST = 32  # with less, luck decides whether the fitted head looks better
STRENGTHS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
# A head counts as trained if the best constant prediction leaves a tenth more open than it does.
_KNOWS = 0.9
_FAR = 0.5  # of a new layer's loss: a constant below that is much better
# Multiplications of one fit's step below which a GPU takes longer to launch it than a CPU to do it.
_LITTLE = 5e7


@dataclass(frozen=True, slots=True)
class HeadStart:
    """What came of the head start.

    Args:
        fitted: whether the head was replaced.
        reason: why, or why not.
        examples: of this rank that were looked at.
        before, after: mean loss of the first head and of the fitted one on the half of the examples
            that it was not fitted to; `frequencies`: of the best constant prediction. All in the
            loss's own unit, None where nothing was fitted.
        strength: of the regularisation.
        seconds: what all of it took, by the ledger's clock; they are booked as scoring.
    """

    fitted: bool
    reason: str
    examples: int = 0
    before: float | None = None
    after: float | None = None
    frequencies: float | None = None
    strength: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain types."""
        return asdict(self)


def default_examples(total: int | None) -> int:
    """Returns how many examples the head is fitted to where nobody says: 512, and a twentieth of
    the stream at the most."""
    return EXAMPLES if total is None else min(EXAMPLES, int(SHARE * total))


def unfit(found: LastLayer | None) -> str:
    """Returns why this layer is left alone, or an empty string if it may be fitted."""
    if found is None:
        return "the model has no last linear layer that makes the logits of this task"
    weight = found.layer.weight
    if not weight.requires_grad or not isinstance(weight, torch.nn.Parameter):
        return "the last layer is frozen"
    # transformers 5 marks the parameters that came out of a checkpoint.
    if getattr(weight, "_is_hf_initialized", False):
        return "the last layer came with the checkpoint"
    return ""


def start_head(found: LastLayer | None, mean: Mean = list, wanted: int = EXAMPLES) -> HeadStart:
    """Fits the last layer to the examples and installs it, unless it is trained already.

    The mean loss plus strength / 2 * |W|^2 is minimised by L-BFGS, with inputs that are centred
    and scaled to a squared norm of 1 on average. The strength is the best of `STRENGTHS` for one
    half of the examples after fitting the other, so that the head does not fit its few examples
    so well that nothing is left for the layers before it to learn; then all are fitted.

    A head is trained if it came with the checkpoint (transformers 5 marks that), or if its loss on
    these examples is less than nine tenths of the best constant prediction's. It is left alone,
    too, where the fitted head is no better on the other half; but where the task says so
    (`Head.begins_constant`) and the best constant's loss is less than half of the first head's, the
    layer is made to give that constant: a new layer gives each of many rare labels a probability of
    a half, which takes hundreds of steps to unlearn.

    With several ranks each fits its own examples, and the mean of the fitted layers is installed
    (Zhang, Duchi & Wainwright 2013, "Communication-efficient algorithms for statistical
    optimization"): all ranks end with the same head. `mean` is
    called as often on each.

    Args:
        mean: gives the mean of a list of numbers over ranks, place by place; one rank's is its own.
        wanted: examples that were to be looked at; if they are too few, none was.
    """
    count = 0 if found is None else len(found)
    looked_at = wanted if found is None else count
    few = f"{looked_at} examples are too few; it takes {FEWEST}" if looked_at < FEWEST else ""
    reason = few if found is None and few else unfit(found) or few
    fit = None if reason or found is None else HeadFit(found)
    if fit is not None and not _is_number(fit.now()):
        reason = "a loss is not finite"
    if mean([float(not reason)])[0] < 1.0:
        return HeadStart(False, reason or "another rank's is left alone", count)
    assert fit is not None
    first, second = (torch.arange(start, count, 2) for start in (0, 1))
    before, frequencies, nothing, *tried = mean(fit.judge(first, second))
    best = min(range(len(tried)), key=tried.__getitem__)
    numbers: dict[str, Any] = {
        "before": before,
        "after": tried[best],
        "frequencies": frequencies,
        "strength": STRENGTHS[best],
    }
    if before < _KNOWS * min(frequencies, nothing):  # a half may lack a class that the other has
        return HeadStart(
            False,
            "the head is trained already: its loss is below that of a constant prediction",
            count,
            **numbers,
        )
    if tried[best] >= min(before, frequencies):
        reason = "a fitted head is no better on examples that it was not fitted to"
        if not (found is not None and found.head.begins_constant and frequencies < _FAR * before):
            return HeadStart(False, reason, count, **numbers)
        values = mean(fit.solve(torch.arange(count), None).tolist())
        fit.install(torch.tensor(values))
        numbers = {**numbers, "after": frequencies, "strength": None}
        reason = "the head was untrained; it predicts how frequent labels are, since " + reason
        return HeadStart(True, reason, count, **numbers)
    values = mean(fit.solve(torch.arange(count), STRENGTHS[best]).tolist())
    fit.install(torch.tensor(values))
    return HeadStart(True, "the head was untrained", count, **numbers)


def _is_number(value: float) -> bool:
    return value - value == 0.0


class HeadFit:
    """Regularised fits of a last layer; parameters are one vector, weight first, then bias.

    Args:
        found: the layer, its inputs and the targets.
        steps: of L-BFGS at the most.
    """

    def __init__(self, found: LastLayer, steps: int = 100) -> None:
        self._steps = steps
        self.layer, self._biased = found.layer, found.layer.bias is not None
        inputs = found.inputs.float()
        # Hundreds of small steps, each of which waits for the one before it.
        if inputs.numel() * len(found.layer.weight) < _LITTLE:
            inputs = inputs.cpu()
        found = replace(
            found,
            inputs=inputs,
            targets={key: value.to(inputs.device) for key, value in found.targets.items()},
        )
        rows = inputs.reshape(-1, inputs.shape[-1])
        # Without a bias there is nothing that could take the mean back in.
        self._middle = rows.mean(dim=0) if self._biased else torch.zeros_like(rows[0])
        self._scale = (rows - self._middle).square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
        self._data = LastLayer(
            found.layer,
            (inputs - self._middle) / self._scale,
            found.head,
            found.targets,
            found.shape,
        )
        self._raw = LastLayer(found.layer, inputs, found.head, found.targets, found.shape)

    def now(self, index: Tensor | None = None) -> float:
        """Returns the mean loss of the head as it is, over these examples or over all."""
        data = self._raw if index is None else self._raw.take(index)
        bias = self.layer.bias
        with torch.no_grad():
            weight = self.layer.weight.to(data.inputs)
            return float(data.losses(weight, None if bias is None else bias.to(weight)).mean())

    def judge(
        self, first: Tensor, second: Tensor, strengths: Sequence[float] = STRENGTHS
    ) -> list[float]:
        """Fits `first` and judges on `second`: mean losses of the head as it is, of the best
        constant, of no logits at all, and of the fitted head for each strength, given from strong
        to weak."""
        losses = self.path(first, second, strengths)
        other = self._data.take(second)
        constant = self._minimise(self._data.take(first), None, None)
        with torch.no_grad():
            constants = [
                float(other.losses(*self._parts(x)).mean())
                for x in (constant, torch.zeros_like(constant))
            ]
        return [self.now(second), *constants, *losses]

    def path(self, first: Tensor, second: Tensor, strengths: Sequence[float]) -> list[float]:
        """Fits `first` with each strength, given from strong to weak, and returns the mean losses
        of `second`."""
        one, other = self._data.take(first), self._data.take(second)
        losses, values = [], None
        for strength in strengths:  # each from where the last one ended
            values = self._minimise(one, strength, values)
            with torch.no_grad():
                losses.append(float(other.losses(*self._parts(values)).mean()))
        return losses

    def solve(self, index: Tensor, strength: float | None) -> Tensor:
        """Returns the parameters fitted to these examples, for the layer's own inputs; with None
        for the strength those of the best constant."""
        values = self._minimise(self._data.take(index), strength, None)
        weight, bias = self._parts(values)
        weight = weight / self._scale
        if bias is None:
            return weight.flatten()
        return torch.cat((weight.flatten(), bias - weight @ self._middle))

    @torch.no_grad()
    def install(self, values: Tensor) -> None:
        """Writes the parameters into the layer."""
        weight, bias = self._parts(values.to(self.layer.weight.device))
        self.layer.weight.copy_(weight)
        if bias is not None:
            self.layer.bias.copy_(bias)

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor | None]:
        shape = self.layer.weight.shape
        weight = values[: shape.numel()].view(shape)
        return weight, values[shape.numel() :] if self._biased else None

    def _minimise(self, data: LastLayer, strength: float | None, start: Tensor | None) -> Tensor:
        """Returns the parameters of least loss, float[p], on inputs that are scaled.

        Args:
            data: what they are fitted to.
            strength: of the penalty on the weights; None fits the bias alone, the best constant.
            start: parameters to begin at; 0 by default.
        """
        size = self.layer.weight.numel()
        count = size + (self.layer.bias.numel() if self._biased else 0)
        values = torch.zeros(count, device=data.inputs.device) if start is None else start.clone()
        if strength is None and not self._biased:
            return values
        values.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [values],
            max_iter=self._steps,
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )

        with torch.enable_grad():
            optimizer.step(self._closure(data, strength, values))  # type: ignore[no-untyped-call]
        return values.detach()

    def _unmet(self, data: LastLayer) -> Unmet | None:
        """Returns the classes that do not occur in these examples; None if all of them occur.

        Without further ado the fit would push the logits of such a class towards minus infinity,
        since that lowers the loss of every example here, and training would take long to undo it.
        Instead its weights stay 0, and its bias is fitted to half a pretended observation.
        """
        found = data.head.unmet(data.targets, len(self.layer.weight)) if self._biased else None
        return found if found is not None and bool(found.classes.any()) else None

    def _closure(
        self, data: LastLayer, strength: float | None, values: Tensor
    ) -> Callable[[], Tensor]:
        """Returns a function that returns the loss to minimise and sets its gradient; arguments as
        of `_minimise`, `values` the parameters."""
        unmet = self._unmet(data)

        def closure() -> Tensor:
            values.grad = None
            weight, bias = self._parts(values)
            if unmet is not None:
                weight = weight.masked_fill(unmet.classes.unsqueeze(1), 0.0)
            loss = data.losses(weight * 0.0 if strength is None else weight, bias).mean()
            if unmet is not None and bias is not None:
                loss = loss + unmet.half(bias)
            if strength is not None:
                loss = loss + 0.5 * strength * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        return closure
