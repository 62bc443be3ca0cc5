"""Every task's loss and size against autograd, example by example, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import finesieve as fs
from finesieve import heads

N, C, L = 12, 5, 7


def labelled(n: int, share: float) -> Tensor:
    """int[n, L] of C classes, of which about `share` are no targets; at least one example none."""
    labels = torch.randint(0, C, (n, L))
    labels[torch.rand(n, L) < share] = -100
    labels[0] = -100
    return labels


def naive_tokens(logits: Tensor, labels: Tensor) -> Tensor:
    found = F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
    return found / max(1, int((labels != -100).sum()))


# name -> (head, outputs, batch, loss of one example by its row of outputs, written out)
CASES: dict[str, Any] = {}


def case(name: str, head: heads.Head, outputs: Any, batch: dict[str, Tensor], naive: Any) -> None:
    CASES[name] = (head, outputs, batch, naive)


torch.manual_seed(0)
logits, labels = torch.randn(N, C) * 3, torch.randint(0, C, (N,))
case(
    "one of several",
    heads.SingleLabel(),
    logits,
    {"labels": labels},
    lambda z, b: F.cross_entropy(z, b["labels"]),
)
case(
    "one of two",
    heads.SingleLabel(),
    logits[:, :2],
    {"labels": labels % 2},
    lambda z, b: F.cross_entropy(z, b["labels"]),
)
case(
    "smoothed",
    heads.SingleLabel(smoothing=0.1),
    logits,
    {"labels": labels},
    lambda z, b: F.cross_entropy(z, b["labels"], label_smoothing=0.1),
)
weights = torch.rand(C) + 0.5
case(
    "class weights",
    heads.SingleLabel(class_weights=weights),
    logits,
    {"labels": labels},
    lambda z, b: F.cross_entropy(z, b["labels"]) * weights[b["labels"]].squeeze(),
)
case(
    "choices",
    heads.Choice(),
    SimpleNamespace(logits=logits),
    {"labels": labels},
    lambda z, b: F.cross_entropy(z, b["labels"]),
)
case(
    "multi-label",
    heads.MultiLabel(),
    logits,
    {"labels": (torch.rand(N, C) < 0.3).float()},
    lambda z, b: F.binary_cross_entropy_with_logits(z, b["labels"]),
)
case(
    "regression",
    heads.Regression(),
    logits[:, :1],
    {"labels": torch.randn(N)},
    lambda z, b: F.mse_loss(z.squeeze(1), b["labels"]),
)
case(
    "flat regression",
    heads.Regression(),
    logits[:, 0],
    {"labels": torch.randn(N)},
    lambda z, b: F.mse_loss(z, b["labels"]),
)
case(
    "several targets",
    heads.Regression(),
    logits,
    {"labels": torch.randn(N, C)},
    lambda z, b: F.mse_loss(z, b["labels"]),
)
long = torch.randn(N, L, C) * 2
case(
    "tokens",
    heads.Tokens(),
    long,
    {"labels": labelled(N, 0.3)},
    lambda z, b: naive_tokens(z[0], b["labels"][0]),
)
case(
    "next tokens",
    heads.Tokens(shift=True),
    long,
    {"labels": labelled(N, 0.5)},
    lambda z, b: naive_tokens(z[0, :-1], b["labels"][0, 1:]),
)
case(
    "smoothed tokens",
    heads.Tokens(smoothing=0.2),
    long,
    {"labels": labelled(N, 0.3)},
    lambda z, b: (
        F.cross_entropy(z[0], b["labels"][0], reduction="sum", label_smoothing=0.2)
        / max(1, int((b["labels"] != -100).sum()))
    ),
)
case(
    "tokens by their number",
    heads.Tokens(per=3.5),
    long,
    {"labels": labelled(N, 0.3)},
    lambda z, b: F.cross_entropy(z[0], b["labels"][0], reduction="sum") / 3.5,
)
case(
    "spans",
    heads.Spans(),
    torch.randn(N, 2, L) * 2,
    {"start_positions": torch.randint(0, L + 2, (N,)), "end_positions": torch.randint(0, L, (N,))},
    lambda z, b: sum(
        F.cross_entropy(z[:, i], b[k]) / 2 if int(b[k]) < L else 0.0 * z[:, i].sum()
        for i, k in enumerate(("start_positions", "end_positions"))
    ),
)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_size_are_autograds(name: str) -> None:
    head, given, batch, naive = CASES[name]
    raw = getattr(given, "logits", given)

    def wrapped(z: Tensor) -> Any:
        if isinstance(head, heads.Spans):
            return SimpleNamespace(start_logits=z[:, 0], end_logits=z[:, 1])
        return SimpleNamespace(logits=z) if given is not raw else z

    leaf = raw.clone().requires_grad_()
    losses = head.losses(wrapped(leaf), batch)
    sizes = head.sizes(wrapped(raw), batch)
    assert losses.shape == sizes.shape == (N,)
    assert losses.requires_grad
    for part, found in zip((losses, sizes), head.both(wrapped(leaf), batch), strict=True):
        torch.testing.assert_close(part.detach(), found, rtol=1e-5, atol=1e-6)
        assert not found.requires_grad
    for i in range(N):
        row = raw[i : i + 1].clone().requires_grad_()
        loss = naive(row, {k: v[i : i + 1] for k, v in batch.items()})
        loss.backward()
        assert losses[i].item() == pytest.approx(loss.item(), abs=1e-5)
        assert sizes[i].item() == pytest.approx(row.grad.norm().item(), abs=1e-4)
        (grad,) = torch.autograd.grad(losses[i], leaf, retain_graph=True)
        assert torch.allclose(grad[i], row.grad[0], atol=1e-5)
        assert grad[:i].abs().sum() == 0  # nobody else's row
    assert sizes.max() > 0


def test_size_of_loss() -> None:
    single = heads.SingleLabel()
    for classes, exact in ((2, True), (5, False)):
        z, y = torch.randn(50, classes) * 2, torch.randint(0, classes, (50,))
        guess = single.size_of_loss(single.losses(z, {"labels": y}).numpy())
        true = single.sizes(z, {"labels": y}).numpy()
        assert (guess >= true - 1e-5).all()
        if exact:
            assert guess == pytest.approx(true, abs=1e-5)
    for classes in (2, 6):
        smoothed = heads.SingleLabel(smoothing=0.1)
        # Fitted, half and not at all, the other classes alike.
        z, y = torch.zeros(4, classes), torch.zeros(4, dtype=torch.long)
        aim = 0.9 + 0.1 / classes
        z[:, 0] = torch.logit(torch.tensor([aim, 0.6, 0.2, 1e-3])) + np.log(classes - 1)
        loss = smoothed.losses(z, {"labels": y}).numpy()
        assert smoothed.size_of_loss(loss) == pytest.approx(
            smoothed.sizes(z, {"labels": y}).numpy(), abs=2e-3
        )
        assert smoothed.size_of_loss(loss)[0] < 2e-3
    z, y = torch.randn(50, 1), {"labels": torch.randn(50)}
    regression = heads.Regression()
    guess = regression.size_of_loss(regression.losses(z, y).numpy())
    assert guess == pytest.approx(regression.sizes(z, y).numpy(), abs=1e-5)
    assert (heads.MultiLabel().size_of_loss(np.asarray([-1e-9, 0.5])) == [0.0, 0.5]).all()


@pytest.mark.parametrize(
    ("head", "outputs", "batch", "said"),
    [
        (heads.SingleLabel(), logits, {"labels": labels.float()}, "problem_type says which"),
        (heads.SingleLabel(), logits, {"labels": labels + 3}, "5 classes"),
        (heads.SingleLabel(), logits, {"gold": labels}, "no 'labels' in the batch.*rename"),
        (heads.SingleLabel(), long, {"labels": labels}, r"expected logits \[n, classes\]"),
        (heads.MultiLabel(), logits, {"labels": labels}, "one 0 or 1 for each"),
        (heads.Regression(), logits, {"labels": torch.randn(N)}, "as the model's predictions"),
        (heads.Regression(), (None, {}), {"labels": torch.randn(N)}, r"the model gave tuple"),
        (
            heads.Regression(),
            None,
            {"labels": torch.randn(N)},
            r"expected logits \[n\] or \[n, k\]",
        ),
        (heads.Regression(), long, {"labels": torch.randn(N)}, r"\[n\] or \[n, k\]"),
        (heads.Tokens(), logits, {"labels": labels}, r"\[n, length, classes\]"),
        (heads.Tokens(), long, {"labels": labelled(N, 0.5)[:, 1:]}, "expected whole numbers"),
        (heads.Tokens(), SimpleNamespace(logits=None), {"labels": labels}, "fuse the loss"),
        (heads.Spans(), SimpleNamespace(start_logits=None), {}, "start_logits"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    head: heads.Head, outputs: Any, batch: Any, said: str
) -> None:
    with pytest.raises(fs.FinesieveError, match=said):
        head.sizes(outputs, batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda: heads.SingleLabel(smoothing=1.0),
        lambda: heads.Tokens(smoothing=-0.1),
        lambda: heads.Tokens(per=0),
    ],
)
def test_settings_out_of_range(make: Any) -> None:
    with pytest.raises(fs.ConfigError, match="expected"):
        make()


def test_features_of_a_choice_are_those_of_the_right_one() -> None:
    ids = torch.arange(2 * 3 * 4).view(2, 3, 4)
    mask = torch.ones_like(ids)
    mask[1, 2, 2:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([1, 2])}
    found = heads.Choice().features()(batch)
    assert found.tokens.tolist() == [[4, 5, 6, 7], [20, 21, -1, -1]]
    assert found.cross.tolist() == [0, 0]
    with pytest.raises(fs.BatchError, match=r"\[n, choices, length\]"):
        heads.Choice().features()({**batch, "input_ids": ids[0]})


@pytest.mark.parametrize("most", [1, 3 * C, 2**24])
@pytest.mark.parametrize("shift", [False, True])
def test_tokens_in_parts_are_as_row_by_row(
    monkeypatch: pytest.MonkeyPatch, most: int, shift: bool
) -> None:
    """However few logits are looked at at a time, and never more of them."""
    monkeypatch.setattr("finesieve.scoring.heads._MOST_LOGITS", most)
    head, rows = heads.Tokens(shift=shift, smoothing=0.1), []
    seen = []
    each = heads.Tokens._each

    def noted(self: heads.Tokens, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(z.numel())
        return each(self, z, y)

    monkeypatch.setattr(heads.Tokens, "_each", noted)
    targets = labelled(N, 0.3)
    loss, size = head.both(long, {"labels": targets})
    assert max(seen) <= max(most, C)
    assert sum(seen) == C * int(head.count(targets).sum())
    for z, y in zip(long, targets, strict=True):
        z, y = (z[:-1], y[1:]) if shift else (z, y)
        z, y = z[y != -100], y[y != -100]
        aim = F.one_hot(y, C) * 0.9 + 0.1 / C
        own = -(aim * torch.log_softmax(z, dim=1)).sum(dim=1)
        error = (torch.softmax(z, dim=1) - aim).square().sum()
        rows.append([own.sum() / max(1, len(y)), error.sqrt() / max(1, len(y))])
    expected = torch.tensor(rows)
    torch.testing.assert_close(torch.stack([loss, size], dim=1), expected, rtol=1e-5, atol=1e-6)
