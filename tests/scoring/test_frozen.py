"""Frozen layers run once an example: training from their kept output is plain training."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finesieve as fs
from finesieve import methods, scores
from finesieve.batches.carry import PREFIX, inputs
from finesieve.errors import BatchError, ConfigError
from finesieve.scoring.frozen import FrozenPrefix, _replaced, freeze, layers_of

transformers = pytest.importorskip("transformers")


def model(frozen: int = 2, **more: Any) -> Any:
    torch.manual_seed(0)
    net = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            **{
                "vocab_size": 60,
                "hidden_size": 16,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "max_position_embeddings": 40,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                **more,
            }
        )
    )
    freeze(net, frozen)
    return net.train()


def batches(n: int = 40, size: int = 16, left: bool = False, seed: int = 1) -> list[dict[str, Any]]:
    dice = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        lengths = dice.integers(3, 14, size)
        real = torch.arange(14)[None] < torch.from_numpy(lengths)[:, None]
        ids = torch.from_numpy(dice.integers(3, 60, (size, 14))) * real
        if left:
            real, ids = real.flip(1), ids.flip(1)
        first = ids.flip(1)[:, 0] if left else ids[:, 0]
        made.append(
            {"input_ids": ids, "attention_mask": real.long(), "labels": (first > 30).long()}
        )
    return made


def by_hand(**settings: Any) -> fs.Method:
    return methods.registry.build(
        "finesieve",
        0,
        **{"train": 0.3, "score": 0.6, "starts": {2: 0.15, 3: 0.4}, "cost_ratio": 0.2, **settings},
    )


def losses(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    given = {k: v for k, v in inputs(batch).items() if k != "labels"}
    return F.cross_entropy(net(**given).logits, batch["labels"], reduction="none")


def counted(net: Any) -> list[int]:
    """Examples that went through the first layer, forward by forward."""
    seen: list[int] = []
    layers_of(net)[0].attention.register_forward_hook(
        lambda module, args, out: seen.append(len(args[0]))
    )
    return seen


def run(
    net: Any,
    prefix: FrozenPrefix | None,
    left: bool = False,
    stop: int | None = None,
    state: Any = None,
) -> tuple[fs.Sieve, Any]:
    """A pass with gates that close; with `stop` up to that step, returning what was saved."""
    data = batches(left=left)
    sieve = fs.Sieve(
        net,
        by_hand(),
        total=640,
        options=fs.SieveOptions(batch_size=8, pool=64, group=2, prefix=prefix),
    )
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    if state:
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        sieve.load_state_dict(state["sieve"])
    for step, batch in enumerate(sieve(data)):
        if prefix is None:
            each = losses(net, batch)
        else:
            with prefix.shared(batch):
                each = losses(net, batch)
        sieve.loss(each, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == stop:
            file = io.BytesIO()
            torch.save(
                {
                    "model": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "sieve": sieve.state_dict(),
                },
                file,
            )
            file.seek(0)
            return sieve, torch.load(file, weights_only=True)
    return sieve, None


class TupleLayer(nn.Module):
    """Gives a tuple, as the layers of some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(16, 16)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        return hidden_states + torch.tanh(self.attention(hidden_states)), None


class TupleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(60, 16)
        self.layer = nn.ModuleList(TupleLayer() for _ in range(3))
        self.classifier = nn.Linear(16, 2)
        freeze(self, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = self.embeddings(input_ids)
        for layer in self.layer:
            hidden = layer(hidden_states=hidden)[0]
        pooled = (hidden * attention_mask[..., None]).sum(1)
        return transformers.modeling_outputs.SequenceClassifierOutput(
            logits=self.classifier(pooled)
        )


@pytest.mark.parametrize("tuples", [False, True])
def test_loss_and_gradient_from_the_kept_output_are_the_plain_ones_to_the_bit(tuples: bool) -> None:
    net = TupleNet() if tuples else model()
    prefix = FrozenPrefix(net, 2)
    (batch,) = batches(1)
    found = scores.Classification(net, prefix=prefix)(batch)
    assert found.prefix is not None
    assert found.prefix.shape == (16, 14, 16)
    plain_losses = losses(net, batch)
    plain_losses.mean().backward()
    expected = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    seen = counted(net)
    with prefix.shared({**batch, PREFIX: found.prefix.clone()}):
        each = losses(net, batch)
    assert not seen  # no frozen layer ran
    each.mean().backward()
    assert torch.equal(each, plain_losses)
    got = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[k], expected[k]) for k in expected)
    assert not any("layer.0" in k or "layer.1" in k or "embeddings" in k for k in got)
    losses(net, batch)
    assert seen == [16]  # outside, the model is as it was


@pytest.mark.parametrize("left", [False, True])
def test_a_run_that_shares_is_the_run_that_does_not(left: bool) -> None:
    """The same survivors; weights alike up to the rounding of batches padded otherwise."""
    # Learned positions would move with the padding on the left; decoders' own do not.
    plain, shared = (TupleNet(), TupleNet()) if left else (model(), model())
    shared.load_state_dict(plain.state_dict())
    seen_plain, seen_shared = counted(plain), counted(shared)
    a, _ = run(plain, None, left)
    b, _ = run(shared, FrozenPrefix(shared, 2), left)
    assert a.stage == b.stage == 3
    assert a.ledger.examples == b.ledger.examples
    for p, q in zip(plain.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=2e-5)
    done = b.ledger.examples
    in_the_open = b.moves[1]["from_example"]
    tried = 2  # before the first step, outside of the books
    assert sum(seen_shared) == tried + done.scored + in_the_open  # each example once
    assert sum(seen_plain) == tried + done.scored + done.yielded
    assert done.yielded > in_the_open


def test_survivors_of_a_budgets_first_stage_go_out_before_any_are_scored() -> None:
    """They carry nothing of the frozen layers, and are not put together with those that do."""
    net = model()
    prefix = FrozenPrefix(net, 2)
    method = methods.registry.build("finesieve", 0, budget=0.4, predictor_bits=10)
    sieve = fs.Sieve(
        net,
        method,
        total=640,
        options=fs.SieveOptions(batch_size=8, pool=64, group=3, prefix=prefix),
    )
    carried = []
    for batch in sieve(batches()):
        carried.append(PREFIX in batch)
        with prefix.shared(batch):
            sieve.loss(losses(net, batch), batch).backward()
        if len(carried) == 4:
            assert sieve.held % 48  # a group is not full
            sieve._flow.move(3, "by hand")
    assert carried.count(True) > 2
    assert carried == sorted(carried)
    examples = sieve.ledger.examples
    assert examples.drawn == 640 == examples.yielded + examples.dropped


def test_resumed_with_kept_output_in_the_state_to_the_bit() -> None:
    whole = model()
    run(whole, FrozenPrefix(whole, 2))
    first = model()
    sieve, state = run(first, FrozenPrefix(first, 2), stop=25)
    assert sieve.stage > 1
    holding = state["sieve"]["holding"]
    assert any(PREFIX in r["columns"] for r in holding["held"] + holding["ready"])
    again = model()
    run(again, FrozenPrefix(again, 2), state=state)
    assert all(
        torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters(), strict=True)
    )


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="of layer 2 is trained"):
        FrozenPrefix(model(), 3)
    with pytest.raises(ConfigError, match="expected 1 to 3"):
        FrozenPrefix(model(), 4)
    with pytest.raises(ConfigError, match="of layer 0 drops 10%"):
        FrozenPrefix(model(hidden_dropout_prob=0.1), 2)
    inside = model()
    inside.bert.encoder.layer[1].attention.own_dropout = 0.3  # of the functional form
    with pytest.raises(ConfigError, match="attention of layer 1 drops 30%"):
        FrozenPrefix(inside, 2)
    with pytest.raises(ConfigError, match=r"no nn\.ModuleList"):
        freeze(nn.Linear(2, 2), 1)
    net = model()
    for parameter in net.bert.embeddings.parameters():
        parameter.requires_grad = True
    (batch,) = batches(1)
    with pytest.raises(ConfigError, match="something before"), FrozenPrefix(net, 2).shared(batch):
        losses(net, batch)
    net = model()
    bare = [{k: v for k, v in b.items() if k != "attention_mask"} for b in batches()]
    sieve = fs.Sieve(
        net,
        by_hand(starts={2: 0.1}),
        total=640,
        options=fs.SieveOptions(pool=64, prefix=FrozenPrefix(net, 2)),
    )
    with pytest.raises(BatchError, match="attention_mask"):
        list(sieve(bare))


def test_a_layers_own_forward_comes_back() -> None:
    """Accelerate's hooks, say, put one on the layer itself."""
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    own = layers[0].forward
    layers[0].forward = own  # type: ignore[method-assign]
    x = torch.ones(1, 2)
    with _replaced(layers, lambda plain, x: plain(x) + 1):
        assert torch.equal(layers[0](x), own(x) + 1)
    assert layers[0].__dict__["forward"] == own
    assert "forward" not in layers[1].__dict__


def test_layers_that_give_more_than_hidden_states_are_refused() -> None:
    """T5's hand position biases from layer to layer."""
    net = model()
    layer = net.bert.encoder.layer[1]
    plain = layer.forward
    layer.forward = lambda *given, **named: (plain(*given, **named), torch.ones(1))
    (batch,) = batches(1)
    with (
        pytest.raises(ConfigError, match="more than its hidden states"),
        FrozenPrefix(net, 2).keeping(),
    ):
        losses(net, batch)
