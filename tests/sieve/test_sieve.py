"""The sieve itself: identity, conservation, unbiasedness, reading ahead."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import finesieve as fs
from finesieve.costs.pace import Pace
from finesieve.scoring.scorers import Classification, Scores
from tests.conftest import Bag, TableScorer, by_hand, ids_of, make_batches, small_sieve, train

# ---- identity


def test_open_gates_change_nothing() -> None:
    batches = make_batches(101)
    sieve = fs.Sieve(method="full", total=101)
    out = list(sieve(batches))
    assert len(out) == len(batches)
    for ours, theirs in zip(out, batches, strict=True):
        bare = fs.inputs(ours)
        assert bare.keys() == theirs.keys()
        assert all(torch.equal(bare[k], theirs[k]) for k in theirs)
        assert ours["sieve_weights"].tolist() == [1.0] * len(theirs["labels"])
    assert ids_of(out) == list(range(101))


def test_training_with_open_gates_is_the_plain_loop_to_the_bit() -> None:
    batches = make_batches(200)
    ends = []
    for wrapped in (False, True):
        model = Bag()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(3)
        if wrapped:
            train(fs.Sieve(method="full"), batches, model, optimizer)
        else:
            for batch in batches:
                logits = model(batch["input_ids"], batch["attention_mask"])
                F.cross_entropy(logits, batch["labels"], reduction="none").mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


@pytest.mark.parametrize("kind", ["tuple", "list", "tensor", "strings"])
def test_other_kinds_of_batches(kind: str) -> None:
    x = torch.arange(60.0).reshape(60, 1)
    make = {
        "tuple": lambda s: (x[s], x[s, 0].long()),
        "list": lambda s: [x[s], x[s, 0].long()],
        "tensor": lambda s: x[s],
        "strings": lambda s: {"text": [f"text {i}" for i in x[s, 0].tolist()], "x": x[s]},
    }[kind]
    batches = [make(slice(i, i + 10)) for i in range(0, 60, 10)]
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=20, group=1),
    )
    for batch in sieve(batches):
        bare = fs.inputs(batch)
        ids = fs.batches.carry.ride(batch).ids
        value = bare if kind == "tensor" else bare["x"] if kind == "strings" else bare[0]
        assert value[:, 0].tolist() == ids.tolist()
        if kind == "strings":
            assert bare["text"] == [f"text {float(i)}" for i in ids.tolist()]
        else:
            assert type(bare) is type(batches[0])
    assert 0 < sieve.ledger.examples.yielded < 60


def test_a_batch_encoding_stays_one() -> None:
    from transformers import BatchEncoding

    batches = [BatchEncoding(b) for b in make_batches(64)]
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=16, group=1),
    )
    for batch in sieve(batches):
        assert isinstance(batch.to("cpu"), BatchEncoding)


class Fixed(Mapping[str, Any]):
    """Can be read, and made from a dict, and never changed."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, key: str) -> Any:
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


KINDS = {
    "fixed": (Fixed, Fixed),
    "proxy": (MappingProxyType, MappingProxyType),
    "ordered": (OrderedDict, OrderedDict),
    "user": (UserDict, UserDict),
    "default": (lambda columns: defaultdict(list, columns), dict),  # not made from a dict
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_mapping_comes_back_as_its_kind(kind: str) -> None:
    """With the default method, through all stages: a dict where the kind cannot be made of one."""
    make, expected = KINDS[kind]
    data = make_batches(400)
    plain = list(small_sieve()(data))
    sieve = small_sieve()
    found = list(sieve([make(batch) for batch in data]))
    assert sieve.stage == 3
    assert len(found) == len(plain)
    for batch, same in zip(found, plain, strict=True):
        assert type(batch) is type(fs.inputs(batch)) is expected
        assert set(fs.inputs(batch)) == set(data[0])
        assert set(batch) == {*data[0], "sieve_ids", "sieve_weights"}
        assert all(torch.equal(batch[key], same[key]) for key in same)
    bare = small_sieve(id_key="own")
    for batch in bare([make({**b, "own": torch.arange(8)}) for b in data]):
        assert batch["own"].tolist() == batch["sieve_ids"].tolist()


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_default_method_takes_batches_without_names(kind: type[Any]) -> None:
    """And decides as on dicts: tokens and labels are found by their form."""

    class Net(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            first = input_ids[:, 0].float() / 100
            return torch.stack([first, -first], dim=1)

    dice = torch.Generator().manual_seed(0)
    data = [
        (torch.randint(1, 99, (8, 5), generator=dice), torch.randint(0, 2, (8,), generator=dice))
        for _ in range(50)
    ]
    ids = []
    for batches in (
        [dict(zip(("input_ids", "labels"), b, strict=True)) for b in data],
        [kind(b) for b in data],
    ):
        sieve = fs.Sieve(Net(), by_hand(), total=400, options=fs.SieveOptions(pool=50, group=2))
        ids.append([fs.batches.carry.ride(batch).ids.tolist() for batch in sieve(batches)])
        assert sieve.stage == 3
        assert sieve.ledger.examples.dropped > 100
    assert ids[0] == ids[1]


# ---- counting


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    batch=st.integers(1, 17),
    pool=st.integers(1, 120),
    group=st.integers(1, 5),
    size=st.integers(1, 20),
    starts=st.sampled_from([{}, {2: 0.0}, {3: 0.0}, {2: 0.2, 3: 0.6}, {2: 0.1}]),
    stop=st.integers(0, 40),
)
def test_conservation(
    n: int, batch: int, pool: int, group: int, size: int, starts: Any, stop: int
) -> None:
    """drawn = dropped + yielded + held, at any moment; in the end nothing is held."""
    method = fs.methods.registry.build("finesieve", predictor_bits=8, starts=starts)
    sieve = fs.Sieve(
        scorer=TableScorer(),
        method=method,
        total=n,
        options=fs.SieveOptions(pool=pool, group=group, batch_size=size),
    )
    yielded = []
    for i, b in enumerate(sieve(make_batches(n, batch))):
        yielded.append(b)
        c = sieve.ledger.examples
        assert c.drawn == c.dropped + c.yielded + sieve.held
        if i == stop:
            break
    else:
        c = sieve.ledger.examples
        assert c.drawn == n == c.dropped + c.yielded
        assert sieve.held == 0
        if yielded:
            assert sieve.progress == pytest.approx(1.0)
    ids = ids_of(yielded)
    assert len(ids) == len(set(ids)) == sieve.ledger.examples.yielded


def test_survivors_are_what_the_loader_gave() -> None:
    """Cut out, padded anew and sorted, yet token for token the same examples."""
    batches = make_batches(400)
    truth = {}
    for i, b in enumerate(batches):
        for row in range(len(b["labels"])):
            real = b["attention_mask"][row].bool()
            truth[8 * i + row] = (b["input_ids"][row][real].tolist(), int(b["labels"][row]))
    for batch in small_sieve()(batches):
        width = batch["attention_mask"].sum(1).max()
        assert batch["input_ids"].shape[1] == width  # no more padding than needed
        for row, i in enumerate(batch["sieve_ids"].tolist()):
            real = batch["attention_mask"][row].bool()
            got = (batch["input_ids"][row][real].tolist(), int(batch["labels"][row]))
            assert got == truth[i]
            assert (batch["input_ids"][row][~real] == 0).all()


def test_stages_by_hand_score_and_decide_what_they_should() -> None:
    scorer = TableScorer()
    sieve = small_sieve(scorer=scorer)
    list(sieve(make_batches(400)))
    assert [m["stage"] for m in sieve.moves] == [1, 2, 3]
    c = sieve.ledger.examples
    in_2 = sieve.moves[2]["from_example"] - sieve.moves[1]["from_example"]
    assert sum(scorer.calls) == c.scored + 2  # before the first step, outside of the books
    assert in_2 < c.scored < 400 - sieve.moves[1]["from_example"]
    assert c.decided == 400 - sieve.moves[2]["from_example"]


def test_group_holds_examples_of_like_length() -> None:
    batches = make_batches(4000, longest=40)
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=200, group=16),
    )
    waste = [1 - b["attention_mask"].float().mean().item() for b in sieve(batches)]
    assert np.mean(waste) < 0.1  # about 0.45 unsorted


@pytest.mark.filterwarnings("ignore:a pass is over and no loss came back")
def test_scoring_batches_are_of_like_length_and_larger_than_the_loaders() -> None:
    waste, sizes = [], []

    class Watching(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            waste.append(1 - batch["attention_mask"].float().mean().item())
            sizes.append(len(batch["labels"]))
            return super().__call__(batch)

    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    batches = make_batches(4000, batch=40, longest=40)
    list(
        fs.Sieve(scorer=Watching(), method=method, total=4000, options=fs.SieveOptions(pool=1024))(
            batches
        )
    )
    assert np.mean(waste) < 0.15  # about 0.45 unsorted
    assert max(sizes) == 80


# ---- unbiased


@pytest.mark.parametrize("start", [2, 3])
def test_weights_are_unbiased_through_both_gates(start: int) -> None:
    """Over many seeds the weighted mean of any value is that of the stream (z < 4).

    The value is the first token: what selection goes by, at both gates.
    """
    batches = make_batches(960, batch=30)
    value = torch.cat([b["input_ids"][:, 0].float() for b in batches])
    estimates, plain = [], []
    for seed in range(150):
        method = fs.methods.registry.build(
            "finesieve", seed, train=0.2, predictor_bits=12, starts={start: 0.0}
        )
        sieve = fs.Sieve(
            scorer=TableScorer(),
            method=method,
            total=960,
            options=fs.SieveOptions(pool=60, group=1),
        )
        total, unweighted = 0.0, []
        for batch in sieve(batches):
            picked = value[batch["sieve_ids"]]
            total += float((batch["sieve_weights"] * picked).sum())
            unweighted += picked.tolist()
        # Weights are normalised by the expected share of survivors, 20 % of the stream.
        estimates.append(total / (0.2 * 960))
        plain.append(np.mean(unweighted))
    # Without the weights the mean would be far off, so the test can fail.
    assert abs(np.mean(plain) - value.mean().item()) > 15
    error = np.mean(estimates) - value.mean().item()
    assert abs(error) < 4 * np.std(estimates) / np.sqrt(len(estimates))
    assert np.std(estimates) > 0


def test_random_survivors_weigh_one() -> None:
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.4), options=fs.SieveOptions(pool=50)
    )
    weights = torch.cat([b["sieve_weights"] for b in sieve(make_batches(500))])
    assert weights == pytest.approx(torch.ones(len(weights)))


def test_reduce_is_the_weighted_mean() -> None:
    batch = {"sieve_ids": torch.arange(3), "sieve_weights": torch.tensor([0.5, 1.0, 2.0])}
    sieve = fs.Sieve(method="full")
    losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    reduced = sieve.loss(losses, batch)
    assert reduced.item() == pytest.approx((0.5 + 2 + 6) / 3)
    reduced.backward()
    assert losses.grad.tolist() == pytest.approx([0.5 / 3, 1 / 3, 2 / 3])


# ---- hosts that read ahead


@pytest.mark.parametrize("ahead", [1, 5])
def test_reading_ahead_keeps_batches_right(ahead: int) -> None:
    """A host takes batches before it trains on the earlier ones; ids and weights ride inside."""
    batches = make_batches(640)
    model = Bag(dropout=0.0)
    method = fs.methods.registry.build("finesieve", predictor_bits=12, starts={2: 0.5, 3: 0.7})
    sieve = fs.Sieve(model, method, total=640, options=fs.SieveOptions(pool=50, group=2))
    taken: list[Any] = []
    returned: dict[int, float] = {}
    expected: dict[int, float] = {}

    def learn(offer: fs.Offer) -> None:
        if offer.stage == 1:
            returned.update(zip(offer.ids.tolist(), offer.loss.tolist(), strict=True))

    sieve.method.backward.learn = learn  # watch what comes back

    def step(batch: Any) -> None:
        bare = fs.inputs(batch)
        labels = bare.pop("labels")
        losses = F.cross_entropy(model(**bare), labels, reduction="none")
        if len(expected) < 40:
            expected.update(zip(batch["sieve_ids"].tolist(), losses.tolist(), strict=True))
        sieve.loss(losses, batch).backward()

    for batch in sieve(batches):
        taken.append(batch)
        if len(taken) > ahead:
            step(taken.pop(0))
    for batch in taken:
        step(batch)
    assert len(returned) >= 32
    for key in returned.keys() & expected.keys():
        assert returned[key] == pytest.approx(expected[key], abs=1e-6)


def test_no_losses_coming_back_is_an_error_not_a_leak() -> None:
    sieve = fs.Sieve(scorer=TableScorer(), method="finesieve")
    endless = (b for _ in range(100) for b in make_batches(400))
    with pytest.raises(fs.ConfigError, match=r"call sieve\.loss"):
        list(sieve(endless))


def test_a_host_that_takes_many_batches_before_it_trains_says_so() -> None:
    sieve = fs.Sieve(scorer=Even(), method="finesieve", options=fs.SieveOptions(read_ahead=20_000))
    stream = sieve(make_batches(24_000, batch=100))
    for _ in range(2):  # steps of 20,000 examples, and what is left
        taken = [batch for _, batch in zip(range(200), stream, strict=False)]
        for batch in taken:
            sieve.loss(torch.ones(len(batch["labels"])), batch)
    assert sieve.window.revealed == 20_000  # the last come back after the pass

    # What is decided on but was not handed out yet is not under way.
    budget = fs.methods.registry.build("finesieve", 0, budget=0.5, patience=2048, predictor_bits=12)
    sieve = fs.Sieve(
        scorer=Even(), method=budget, total=40_000, options=fs.SieveOptions(read_ahead=17_000)
    )
    stream = sieve(make_batches(40_000, batch=100))
    taken = [batch for _, batch in zip(range(170), stream, strict=False)]
    assert len(taken) == 170
    with pytest.raises(fs.ConfigError, match="read_ahead is -1"):
        fs.Sieve(scorer=Even(), options=fs.SieveOptions(read_ahead=-1))


def test_large_batches_and_losses_that_sometimes_stay_away_are_no_error() -> None:
    sieve = fs.Sieve(scorer=TableScorer(), method="finesieve")
    for batch in sieve(make_batches(21000, batch=2100)):
        sieve.loss(torch.ones(len(batch["labels"])), batch)
    sieve = fs.Sieve(scorer=Even(), method="finesieve")
    for i, batch in enumerate(sieve(make_batches(40000, batch=250))):
        if i % 3 == 0:
            sieve.loss(torch.ones(250), batch)
    assert len(sieve._flow.learning._returns) <= 16384


class Even(TableScorer):
    """All sizes alike, so that the gates stay open."""

    def size_of_loss(self, loss: Any) -> Any:
        return np.ones_like(loss)


@pytest.mark.filterwarnings("ignore:a pass is over and no loss came back")
def test_predictions_are_judged_before_they_are_learned() -> None:
    """On labels' sizes that are pure chance a predictor that peeks would look good."""
    dice = np.random.default_rng(0)

    class Chance(TableScorer):
        def __call__(self, batch: Any) -> Scores:
            size = dice.lognormal(0, 1, len(batch["labels"])).astype(np.float32)
            return Scores(size, size)

    g = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(0, 10**9, (8, 6), generator=g),  # every token is new
            "attention_mask": torch.ones(8, 6, dtype=torch.long),
            "labels": torch.zeros(8, dtype=torch.long),
        }
        for _ in range(250)
    ]
    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    sieve = fs.Sieve(scorer=Chance(), method=method, total=2000, options=fs.SieveOptions(pool=50))
    list(sieve(batches))
    assert 0.45 < sieve.window.auc() < 0.55


# ---- bad input


def test_a_mean_loss_is_named() -> None:
    sieve = fs.Sieve(method="full")
    batch = next(iter(sieve(make_batches(8))))
    with pytest.raises(fs.ScoreError, match="reduction='none'"):
        sieve.loss(torch.tensor(0.3), batch)
    with pytest.raises(fs.ScoreError, match="all dimensions but the first"):
        sieve.loss(torch.zeros(8, 4), batch)
    with pytest.raises(fs.BatchError, match="did not come from a sieve"):
        sieve.loss(torch.zeros(8), make_batches(8)[0])


class SomeNan(TableScorer):
    """NaN for tokens above a limit."""

    def __init__(self, above: int) -> None:
        super().__init__()
        self.above = above

    def __call__(self, batch: Any) -> Scores:
        scores = super().__call__(batch)
        bad = (batch["input_ids"][:, 0] > self.above).numpy()
        return Scores(np.where(bad, np.nan, scores.loss), np.where(bad, np.inf, scores.size))


def test_scored_nans_are_kept_out_and_counted() -> None:
    batches = make_batches(400)
    events: list[Any] = []
    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    sieve = fs.Sieve(
        scorer=SomeNan(96),
        method=method,
        total=400,
        options=fs.SieveOptions(pool=50, group=1, listeners=[events.append]),
    )
    seen = ids_of(list(sieve(batches)))
    tokens = torch.cat([b["input_ids"][:, 0] for b in batches])
    bad = int((tokens > 96).sum())
    assert 0 < bad <= 32
    assert sieve.ledger.examples.bad == bad
    assert not (tokens[seen] > 96).any()
    assert sum(e["kept_out"].sum() for e in events if e["event"] == "pool") == bad


def test_many_nans_stop_the_run() -> None:
    method = fs.methods.registry.build("finesieve", starts={2: 0.0})
    sieve = fs.Sieve(scorer=SomeNan(50), method=method, total=400)
    with pytest.raises(fs.ScoreError, match=r"had a loss that is NaN or infinite.*more than 1 %"):
        list(sieve(make_batches(400)))


def test_an_infinite_training_loss_leaves_the_rest_of_its_batch_intact() -> None:
    sieve = fs.Sieve(method="full")
    batch = next(iter(sieve(make_batches(4, batch=4))))
    losses = torch.tensor([1.0, float("inf"), 3.0, float("nan")], requires_grad=True)
    reduced = sieve.loss(losses, batch)
    assert reduced.item() == pytest.approx(2.0)
    reduced.backward()
    assert losses.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_bad_batches() -> None:
    with pytest.raises(fs.BatchError, match="without a batch dimension"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3), "flag": torch.tensor(True)}]))
    with pytest.raises(fs.BatchError, match=r"'y' is a ndarray; expected a tensor .*make it one"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3), "y": np.zeros(3)}]))
    with pytest.raises(fs.BatchError, match="'y' has 2 rows, but others have 3"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3), "y": torch.zeros(2)}]))
    with pytest.raises(fs.BatchError, match="single examples"):
        list(fs.Sieve(method="full")([3]))
    with pytest.raises(fs.BatchError, match="a dict before and a tuple now"):
        list(fs.Sieve(method="full")([{"x": torch.zeros(3)}, (torch.zeros(3),)]))
    ragged = [(torch.ones(2, 3),), (torch.ones(2, 5),)]
    random = fs.methods.registry.build("random", share=0.9)
    with pytest.raises(fs.BatchError, match=r"give pad_values=\{0: \.\.\.\}"):
        list(fs.Sieve(method=random, options=fs.SieveOptions(pool=4))(ragged))
    padded = list(
        fs.Sieve(method=random, options=fs.SieveOptions(pool=4, pad_values={0: 7}, group=1))(ragged)
    )
    assert sum((b[0] == 7).sum().item() for b in padded) > 0


def test_a_method_that_scores_needs_a_scorer() -> None:
    with pytest.raises(fs.ConfigError, match="give the sieve the model"):
        fs.Sieve(method="finesieve")
    with pytest.raises(fs.ConfigError, match="pool is 0"):
        fs.Sieve(method="full", options=fs.SieveOptions(pool=0))


@pytest.mark.parametrize("n", [1, 3, 30])
def test_a_stream_that_ends_in_warm_up(n: int) -> None:
    sieve = fs.Sieve(scorer=TableScorer(), method="finesieve", total=1000)
    assert ids_of(list(sieve(make_batches(n)))) == list(range(n))
    assert sieve.stage == 1


def test_batch_size_one_and_an_empty_loader() -> None:
    sieve = small_sieve(60)
    out = list(sieve(make_batches(60, batch=1)))
    assert all(len(b["labels"]) == 1 for b in out)
    assert list(small_sieve()([])) == []


def test_own_ids_are_kept_from_the_model() -> None:
    batches = [dict(b, example=torch.arange(8) + 8 * i) for i, b in enumerate(make_batches(160))]
    sieve = fs.Sieve(
        Bag(), by_hand(), total=160, options=fs.SieveOptions(pool=50, group=1, id_key="example")
    )
    assert ids_of(list(sieve(batches)))
    assert sieve.ledger.examples.scored > 0


def test_a_gate_of_ones_own_gets_the_features_that_were_given() -> None:
    class Long(fs.Gate):
        def decide(self, offer: fs.Offer) -> fs.Verdict:
            return fs.Verdict((offer.need("features", self).tokens >= 0).sum(axis=1) >= 6)

    method = fs.Method("mine", Long(), fs.Open(), fs.Fixed({3: 0.0}))
    sieve = fs.Sieve(
        method=method, options=fs.SieveOptions(features=fs.token_features(), pool=50, group=1)
    )
    for batch in sieve(make_batches(200)):
        assert (batch["attention_mask"].sum(1) >= 6).all()
    assert 0 < sieve.ledger.examples.yielded < 200


def test_columns_that_only_look_like_token_columns_are_left_alone() -> None:
    """A multi-hot column as wide as some batches, and one with a place for every token."""
    batches = []
    for b in make_batches(320):
        n, width = b["input_ids"].shape
        boxes = b["input_ids"][:, :, None].expand(n, width, 4).clone()
        batches.append(dict(b, hot=torch.ones(n, 12), boxes=boxes))
    assert {b["input_ids"].shape[1] for b in batches} >= {11, 12}
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=100, group=2),
    )
    for batch in sieve(batches):
        assert (batch["hot"] == 1).all()
        assert batch["hot"].shape[1] == 12
        assert torch.equal(batch["boxes"][:, :, 3], batch["input_ids"])


def test_labels_that_cannot_be_scored_are_named() -> None:
    scorer = fs.scores.Classification(Bag())
    batch = make_batches(8)[0]
    with pytest.raises(fs.ScoreError, match="go from -100 to"):
        scorer(dict(batch, labels=torch.full((8,), -100)))
    with pytest.raises(fs.ScoreError, match="the model has 2 classes"):
        scorer(dict(batch, labels=torch.full((8,), 5)))
    with pytest.raises(fs.ScoreError, match="one class an example"):
        scorer(dict(batch, labels=torch.rand(8)))


def test_own_ids_ride_along() -> None:
    batches = [dict(b, example=torch.arange(8) + 1000 * i) for i, b in enumerate(make_batches(160))]
    out = list(small_sieve(160, id_key="example")(batches))
    assert all(torch.equal(b["sieve_ids"], b["example"]) for b in out)


# ---- where the padding goes


def test_pad_values_are_learned_and_left_padding_stays_left() -> None:
    batches = []
    for b in make_batches(320):
        flipped = {k: v.flip(1) if v.ndim == 2 else v for k, v in b.items()}
        flipped["input_ids"][flipped["attention_mask"] == 0] = 77
        batches.append(flipped)
    sieve = fs.Sieve(
        method=fs.methods.registry.build("random", share=0.5),
        options=fs.SieveOptions(pool=64, group=2),
    )
    for batch in sieve(batches):
        mask = batch["attention_mask"]
        assert (mask.diff(dim=1) >= 0).all()  # zeros first
        assert (batch["input_ids"][mask == 0] == 77).all()


# ---- listeners


def test_listeners_hear_of_every_example() -> None:
    events: list[Any] = []
    sieve = small_sieve(listeners=[events.append])
    yielded = ids_of(list(sieve(make_batches(400))))
    fate: dict[int, str] = {}
    counts: dict[str, int] = defaultdict(int)
    for e in events:
        counts[e["event"]] += 1
        if e["event"] == "open":
            fate.update(dict.fromkeys(e["ids"].tolist(), "kept"))
        if e["event"] == "pool":
            for i, w in zip(e["ids"].tolist(), e["weight"].tolist(), strict=True):
                fate[i] = "kept" if w > 0 else "dropped"
    assert sorted(fate) == list(range(400))
    assert sorted(yielded) == sorted(i for i, f in fate.items() if f == "kept")
    assert counts["stage"] == 2


def test_losses_that_never_come_back_are_noticed_when_a_pass_is_over() -> None:
    with pytest.warns(fs.errors.FinesieveWarning, match=r"call sieve\.loss"):
        list(small_sieve(6000)(make_batches(6000)))
    list(small_sieve(400)(make_batches(400)))  # too few to tell; warnings are errors in the tests
    list(small_sieve(6000, method="random")(make_batches(6000)))  # of no use to it


def test_ids_that_are_no_whole_numbers_are_refused() -> None:
    for ids, said in (
        (["a", "b"], "holds str"),
        (torch.tensor([0.5, 1.5]), "holds torch.float32"),
        (torch.ones(2, 2, dtype=torch.long), r"of shape \(2, 2\)"),
    ):
        batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "id": ids}
        with pytest.raises(fs.BatchError, match=said):
            list(small_sieve(2, id_key="id")([batch]))


def test_ids_in_a_tuple_are_kept_from_the_model() -> None:
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape)
            return torch.stack([x.float().mean(1), -x.float().mean(1)], dim=1)

    data = [
        (torch.randint(0, 9, (8, 4)), torch.arange(i, i + 8), torch.randint(0, 2, (8,)))
        for i in range(0, 400, 8)
    ]
    sieve = fs.Sieve(
        Net(),
        by_hand(),
        total=400,
        options=fs.SieveOptions(
            pool=50,
            group=2,
            id_key=1,
            features=lambda b: fs.Features(
                b[0].numpy().astype(np.int64), np.zeros(len(b[0]), np.int64)
            ),
        ),
    )
    out = list(sieve(data))
    assert seen
    for x, own, labels, riding in out:
        assert x.shape[1:] == (4,)
        assert own.tolist() == riding.ids.tolist()
        assert len(labels) == len(own)


def test_a_scorer_may_be_a_plain_function() -> None:
    """The size is the loss then, where losses come back from the training step."""
    sieve = fs.Sieve(
        scorer=lambda batch: TableScorer()(batch),
        method=by_hand(),
        total=400,
        options=fs.SieveOptions(pool=50),
    )
    for batch in sieve(make_batches(400)):
        sieve.loss(torch.full((len(batch["labels"]),), 0.7), batch)
    assert sieve.stage == 3
    assert np.isclose(sieve.window.column("size"), 0.7).any()


# ---- a scorer that does not fit


class Unsteady(Classification):
    """Scores rightly, and draws random numbers of every kind."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.calls: list[int] = []

    def __call__(self, batch: Any) -> Scores:
        random.random()
        np.random.random()
        torch.rand(1)
        self.calls.append(len(batch["labels"]))
        return super().__call__(batch)


def test_a_scorer_that_does_not_fit_is_an_error_before_the_first_step() -> None:
    """The same one as when gates close."""
    batches = [{**b, "domain": torch.zeros(len(b["labels"]))} for b in make_batches(400)]
    said = []
    for starts in ({2: 0.5}, {2: 0.0}):
        sieve = small_sieve(
            scorer=Classification(Bag()),
            method=fs.methods.registry.build("finesieve", starts=starts),
        )
        with pytest.raises(TypeError, match="unexpected keyword argument 'domain'") as error:
            next(sieve(batches))
        said.append(str(error.value))
        assert sieve.ledger.examples.yielded == 0
    assert said[0] == said[1]

    def means(batch: Any) -> Scores:
        return Scores(np.zeros(1, np.float32), np.zeros(1, np.float32))

    with pytest.raises(fs.ScoreError, match="sizes for 2 examples"):
        next(small_sieve(scorer=means)(make_batches(400)))


def test_trying_the_scorer_leaves_no_trace() -> None:
    model = Bag()
    model.embed.eval()  # on purpose
    scorer = Unsteady(model)
    sieve = small_sieve(scorer=scorer)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    stream = sieve(make_batches(400))
    next(stream)
    assert scorer.calls == [2]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert (model.training, model.drop.training, model.embed.training) == (True, True, False)
    assert sieve.ledger.examples.scored == sieve.ledger.tokens.scored == 0
    assert sieve.ledger.seconds["score"] == 0.0
    assert sieve.meter.paces["score"].state_dict() == Pace().state_dict()
    next(stream)
    assert scorer.calls == [2]  # once

    unscored = Unsteady(model)
    next(small_sieve(scorer=unscored, method="random")(make_batches(400)))
    assert unscored.calls == []
    again = small_sieve(scorer=unscored)
    again.load_state_dict(sieve.state_dict())
    next(again(make_batches(400)))
    assert unscored.calls == []


def test_a_scorer_that_ran_for_the_head_start_is_not_tried_again() -> None:
    for scorer, tried in ((Unsteady(Bag()), []), (TableScorer(), [2])):
        sieve = small_sieve(scorer=scorer, head_start=32)
        next(sieve(make_batches(400)))
        assert scorer.calls == tried


def test_gates_do_not_close_where_no_loss_came_back() -> None:
    """Closed by hand they would; survivors would be trained on without their weights."""
    sieve = small_sieve(total=20000)
    with pytest.raises(fs.ConfigError, match=r"gates close now, .* and no loss came back"):
        for _ in sieve(make_batches(4000, 32)):
            pass
    assert sieve.stage == 1
