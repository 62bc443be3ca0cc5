"""Accelerate's loop, filtered: off it changes nothing, on it filters, accumulates, resumes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import finesieve as fs
from finesieve.scoring.protocol import Scores
from tests.conftest import Bag, TableScorer, make_batches
from tests.forked import Run as Forked
from tests.forked import last_lines

pytest.importorskip("accelerate")

from accelerate.utils import DataLoaderConfiguration

from finesieve.integrations.accelerate import FilteredLoader
from tests.integrations.accelerate.ranks import OPTIONS, Run, closed, collate, fresh, rows

ROOT = Path(__file__).parents[3]


def same(a: Run, b: Run) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))


@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("method", ["full", "open"])
def test_switched_off_it_is_the_plain_loop_to_the_bit(method: str, accumulated: int) -> None:
    plain = Run(accumulated=accumulated)
    sieved = Run(closed(starts={}) if method == "open" else "full", accumulated=accumulated)
    assert same(plain, sieved)
    assert plain.sync == sieved.sync
    assert plain.rates == sieved.rates
    assert len(plain.batches) == 76
    assert plain.steps == {1: 76, 4: 20}[accumulated]


@pytest.mark.parametrize("prepared", [True, False])
def test_it_filters_and_decays_the_rate_in_full(prepared: bool) -> None:
    run = Run(closed(), prepared=prepared)
    sieve = run.stream.sieve
    examples = sieve.ledger.examples
    assert examples.drawn == 600
    assert examples.drawn == examples.yielded + examples.dropped
    assert 0 < examples.scored < 500
    assert examples.yielded < 420
    assert sieve.stage == 3
    assert sieve.progress == pytest.approx(1.0)
    assert run.rates[0] == 0.01
    assert 0 < run.rates[-1] < 0.001
    assert run.rates == sorted(run.rates, reverse=True)
    assert run.stream.insights["trained"].sum() == examples.yielded
    figures = run.stream.figures()
    assert figures["sieve_stage"] == 3.0
    assert 0 < figures["sieve_trained"] < 0.8


def test_a_prepared_schedule_that_nobody_drives_is_noticed_once() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Bag(dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=20)
    model, optimizer, loader, decay = accelerator.prepare(
        model, optimizer, DataLoader(rows(80), 8, collate_fn=collate), decay
    )
    stream = FilteredLoader(accelerator, loader, model, closed(starts={}), epochs=2)
    with pytest.warns(fs.errors.FinesieveWarning, match=r"decay = stream\.schedule\(decay\)"):
        next(iter(stream))
    next(iter(stream))  # once is enough; warnings are errors in the tests
    stream = FilteredLoader(accelerator, loader, model, closed(starts={}), epochs=2)
    stream.schedule(decay)
    next(iter(stream))
    next(iter(FilteredLoader(accelerator, loader, method="full")))


@pytest.mark.parametrize("accumulated", [3, 5, 7])  # of 28 and 24 batches some are left over
def test_every_step_has_its_batches_and_none_is_lost(accumulated: int) -> None:
    run = Run(closed(), accumulated=accumulated)
    for sync in run.sync:
        assert sync[-1]
        whole = len(sync) // accumulated * accumulated
        assert sync[:whole] == ([False] * (accumulated - 1) + [True]) * (whole // accumulated)
        assert not any(sync[whole:-1])
    assert sum(len(s) % accumulated for s in run.sync) > 0  # a step was completed at the end
    assert all(p.grad is None for p in run.model.parameters())
    assert all(b["sieve_weights"].any() for b in run.batches)  # without a filler


class First(fs.Gate):
    """Keeps the first 248 of every 300 examples: nothing of the end of a pass."""

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        return fs.Verdict(offer.ids % 300 < 248)


def test_a_pass_that_ends_without_warning_completes_its_step() -> None:
    """Against the same batches and steps by hand."""
    method = fs.Method("first", fs.Open(), First(), fs.Fixed({2: 0.0}))
    run = Run(
        method,
        accumulated=4,
        dropout=0.0,
        prepared=False,
        options={"pool": 32, "group": 1, "batch_size": 8},
    )
    fillers = [i for i, b in enumerate(run.batches) if not b["sieve_weights"].any()]
    assert fillers == [31, 63]
    assert run.sync == [[False, False, False, True] * 8] * 2
    model = Bag(dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for i, batch in enumerate(run.batches):
        if i not in fillers:
            bare = fs.inputs(batch)
            labels = bare.pop("labels")
            (F.cross_entropy(model(**bare), labels, reduction="none").mean() / 4).backward()
        if i % 4 == 3:
            optimizer.param_groups[0]["lr"] = run.rates[i]
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(run.weights, model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.arange(6).view(3, 2), "text": ["a", "b", "c"]},
        torch.arange(6).view(3, 2),
        (torch.arange(6).view(3, 2), torch.arange(3)),
        [torch.arange(3)],
    ],
)
def test_fillers_of_every_form(batch: Any) -> None:
    sieve = fs.Sieve(method="full")
    with pytest.raises(fs.StateError, match="nothing was drawn yet"):
        sieve.filler()
    (made,) = sieve([batch])
    short = sieve.filler()
    assert type(short) is type(made)
    assert fs.is_filler(short)
    assert not fs.is_filler(made)
    bare = fs.inputs(short)
    columns = bare.values() if isinstance(bare, dict) else [bare] if torch.is_tensor(bare) else bare
    assert [len(c) for c in columns] == [2] * len(columns)
    assert len(next(iter(made.values())) if isinstance(made, dict) else made[0]) == 3


def test_a_filler_s_bad_loss_does_no_harm() -> None:
    run = Run("full", n=16, epochs=1)
    filler = run.stream.sieve.filler()
    losses = torch.tensor([float("nan"), 2.0], requires_grad=True)
    loss = run.stream.loss(losses, filler)
    loss.backward()
    assert loss == 0
    assert losses.grad is not None
    assert losses.grad.tolist() == [0, 0]
    with pytest.raises(fs.ScoreError, match="reduction='none'"):
        run.stream.loss(losses.sum(), filler)


@pytest.mark.parametrize("where", [4, "end", "between", "second pass"])
@pytest.mark.parametrize("order", ["global", "generator", "seedable"])
def test_resuming_ends_at_the_same_weights(tmp_path: Path, where: Any, order: str) -> None:
    """Accelerate has read one batch ahead when it saves; dropout and order draw random numbers."""

    def run(**more: Any) -> Run:
        torch.manual_seed(more.pop("start", 0))
        seedable = DataLoaderConfiguration(use_seedable_sampler=order == "seedable", data_seed=3)
        own = torch.Generator().manual_seed(4) if order == "generator" else None
        return Run(closed(), accumulated=2, generator=own, dataloader_config=seedable, **more)

    whole = run()
    assert len(whole.sync) == 2
    first = len(whole.sync[0])
    at = {4: 4, "end": first, "between": first, "second pass": first + 6}[where]
    stop = None if where == "between" else at
    stopped = run(save=(stop or 0, tmp_path), stop=stop)
    assert same_ids(stopped.batches[:at], whole.batches[:at])
    again = run(load=tmp_path, seed=9, start=9)
    assert same_ids(again.batches, whole.batches[at:])
    assert same(whole, again)
    assert again.stream.passes == 2
    assert again.rates == whole.rates[at:]


def same_ids(a: list[Any], b: list[Any]) -> bool:
    return [x["sieve_ids"].tolist() for x in a] == [x["sieve_ids"].tolist() for x in b]


class Noting(Bag):
    """Notes whether it scores or trains, and in which precision."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.seen: set[tuple[str, torch.dtype]] = set()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out = super().forward(input_ids, attention_mask)
        self.seen.add(("trains" if torch.is_grad_enabled() else "scores", out.dtype))
        return out


def test_scoring_is_in_training_s_mixed_precision() -> None:
    model = Noting()
    run = Run(closed(), model=lambda: model, mixed_precision="bf16")
    half = torch.bfloat16
    assert model.seen == {("trains", half), ("scores", half)}
    assert run.stream.sieve.ledger.examples.scored > 0
    wrapped = run.accelerator.unwrap_model(model)
    assert wrapped is model
    out = wrapped(**{k: v for k, v in make_batches(8)[0].items() if k != "labels"})
    assert out.dtype == torch.float32  # Accelerate's own forward


def test_leaving_a_pass_and_evaluating_inside_one() -> None:
    """Accelerate's books are in order after each; an evaluation ends no step."""
    accelerator = fresh(4)
    net, loader, other = accelerator.prepare(
        Bag(),
        DataLoader(rows(80), 8, collate_fn=collate),
        DataLoader(rows(24), 8, collate_fn=collate),
    )
    stream = FilteredLoader(accelerator, loader, method="full", epochs=2)
    state, synced = accelerator.gradient_state, []
    for i, _ in enumerate(stream):
        with accelerator.accumulate(net):
            synced.append(accelerator.sync_gradients)
        if i == 1:
            assert len(list(other)) == 3
        assert state.active_dataloader is stream
    assert synced == [False, False, False, True] * 2 + [False, True]
    assert not state.in_dataloader
    for _ in stream:
        break
    assert not state.in_dataloader
    assert len(list(stream)) == 10


def test_lengths() -> None:
    """The stream's length follows from the loader, or is given."""

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(rows(20))

    accelerator = fresh()
    data = rows(20)
    kinds = [
        (20, DataLoader(data, 8, collate_fn=collate)),
        (16, DataLoader(data, 8, collate_fn=collate, drop_last=True)),
    ]
    for n, loader in kinds:
        stream = FilteredLoader(accelerator, accelerator.prepare(loader), method="full", epochs=3)
        assert stream.sieve._total == 3 * n
        assert len(list(stream)) == len(loader)
    loader = accelerator.prepare(DataLoader(Endless(), 8, collate_fn=collate))
    stream = FilteredLoader(accelerator, loader, method="full")
    assert sum(len(b["labels"]) for b in stream) == 20
    with pytest.raises(fs.ConfigError, match="`total`"):
        _ = stream.sieve.progress
    with pytest.raises(fs.ConfigError, match=r"stream\.schedule\(\.\.\., steps=\.\.\.\)"):
        stream.schedule(None)
    stream = FilteredLoader(accelerator, loader, method="full", total=20)
    assert len(list(stream)) == 3
    assert stream.sieve.progress == 1.0


def test_two_ranks(tmp_path: Path) -> None:
    """Same weights, steps and stages, also resumed; off they are plain Accelerate's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    a, b = out = last_lines(
        *(
            Forked(
                module="tests.integrations.accelerate.ranks",
                words=[str(tmp_path)],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        )
    )
    for same_on_both in ("weights", "sync", "rates", "moves"):
        assert a[same_on_both] == b[same_on_both]
    assert a["moves"] == [1, 2, 3]
    assert a["ids"] != b["ids"]
    assert len(a["sync"]) == 2
    for sync in a["sync"]:
        assert sync[-1]
        assert sync[:-1] == [i % 3 == 2 for i in range(len(sync) - 1)]
    for rank in out:
        assert rank["passes"] == 2
        assert rank["resumed"]
        assert rank["uneven"] == [5, 160, True]
        assert rank["full"]
        assert rank["open"]
    assert a["detached"] == b["detached"]
    assert a["detached"]["progress"] == 1.0
    assert a["detached"]["plain"].count(True) == 10  # of the 20 that 156 rows make
    assert a["detached"]["plain"][-10:] == [True] * 10
    assert len(list(tmp_path.glob("finesieve-0-rank*.pt"))) == 2


class Seeing(TableScorer):
    """Notes on which devices it is given batches."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()

    def __call__(self, batch: Any) -> Scores:
        self.devices |= {v.device.type for v in batch.values()}
        return super().__call__(batch)


def test_batches_are_filtered_on_the_host_and_yielded_on_the_loaders_device() -> None:
    accelerator, scorer = fresh(), Seeing()
    loader = accelerator.prepare(DataLoader(rows(96), batch_size=8, collate_fn=collate))  # type: ignore[arg-type]
    loader.device = torch.device("meta")  # as a GPU is: what lies there cannot be read
    stream = FilteredLoader(
        accelerator, loader, method=closed(starts={2: 0.2}), scorer=scorer, epochs=2, **OPTIONS
    )
    for _ in range(2):
        for batch in stream:
            assert {v.device.type for v in batch.values()} == {"meta"}
        assert loader.device == torch.device("meta")
    assert scorer.devices == {"cpu"}
    assert stream.sieve.stage == 2


@pytest.mark.parametrize("accumulated", [1, 3])
def test_detached_in_mid_training_the_rate_ends_where_it_should(accumulated: int) -> None:
    """The pass under way is filtered to its end; those that follow are the loader's own."""
    run = Run(closed(), epochs=3, accumulated=accumulated, detach=12)
    plain = [batch for batch in run.batches if "sieve_ids" not in batch]
    assert "sieve_ids" in run.batches[12]
    assert run.batches[-76:] == plain
    assert sum(len(batch["labels"]) for batch in plain) == 600
    assert [sum(sync) for sync in run.sync[1:]] == [-(-38 // accumulated)] * 2
    assert all(sync[-1] for sync in run.sync)
    assert run.rates == sorted(run.rates, reverse=True)
    assert run.rates[-1] == pytest.approx(0.01 / (3 * -(-38 // accumulated)), rel=0.1)
    assert run.stream.passes == 3


@pytest.mark.parametrize("cut", [15, 50])  # in the filtered pass after it was told; in a plain one
def test_saved_after_it_was_detached_a_run_goes_on_there(tmp_path: Path, cut: int) -> None:
    whole = Run(closed(), detach=12, save=(cut, tmp_path))
    assert ("sieve_ids" in whole.batches[cut]) == (cut == 15)
    again = Run(closed(), load=tmp_path, seed=5)
    assert len(again.batches) == len(whole.batches) - cut
    assert same(whole, again)


def test_frozen_layers_are_shared_with_training() -> None:
    transformers = pytest.importorskip("transformers")
    from finesieve.scoring.frozen import FrozenPrefix, freeze

    config = transformers.BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    freeze(model, 1)
    accelerator = fresh()
    loader = accelerator.prepare(DataLoader(rows(256), batch_size=8, collate_fn=collate))
    method = closed(starts={2: 0.0})
    prefix = FrozenPrefix(model, 1)
    stream = FilteredLoader(accelerator, loader, model, method, prefix=prefix, **OPTIONS)
    carried = ["sieve_prefix" in batch for batch in stream]
    assert len(carried) > 4
    assert all(carried)
