"""What a filtered loader of Accelerate cannot serve is refused before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import finesieve as fs
from tests.conftest import Bag, TableScorer

pytest.importorskip("accelerate")
from accelerate.utils import DataLoaderConfiguration

from finesieve.integrations.accelerate import FilteredLoader
from tests.integrations.accelerate.ranks import Run, closed, collate, fresh, rows


def test_states_that_cannot_be_taken_up(tmp_path: Path) -> None:
    run = Run(closed(), epochs=1, save=(4, tmp_path), stop=4)
    (file,) = tmp_path.glob("finesieve*")
    assert file.name == "finesieve-0-rank0.pt"
    state = torch.load(file, weights_only=True)
    bare = FilteredLoader(run.accelerator, run.stream._loader, method="full")
    assert bare._file("x").name == "finesieve-1-rank0.pt"
    bare._number = 0
    with pytest.raises(fs.StateError, match=r"call stream\.schedule"):
        bare._load([], str(tmp_path))
    torch.save({**state, "ranks": 2}, file)
    with pytest.raises(fs.StateError, match="saved by 2 ranks, and there are 1"):
        Run(closed(), epochs=1, load=tmp_path)
    file.unlink()
    with pytest.raises(fs.StateError, match="saved without a sieve"):
        Run(closed(), epochs=1, load=tmp_path)
    with pytest.raises(ValueError, match="state_dict"):  # would save the first rank's alone
        run.accelerator.register_for_checkpointing(run.stream)


def test_a_scorer_in_the_models_place_is_the_old_way() -> None:
    accelerator = fresh()
    loader = accelerator.prepare(DataLoader(rows(20), 8, collate_fn=collate))
    scorer = TableScorer()
    with pytest.warns(DeprecationWarning, match=r"use .*scorer=scorer"):
        stream = FilteredLoader(accelerator, loader, scorer, closed(starts={2: 0.0}))
    assert sum(len(batch["labels"]) for batch in stream) < 20
    assert sum(scorer.calls) == 20


class Inside(nn.Module):
    """A model with DistributedDataParallel where no unwrapping finds it."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.inner = wrapped


def test_what_cannot_be_served_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = fresh()
    bare = DataLoader(rows(20), 8, collate_fn=collate)
    loader = accelerator.prepare(bare)
    model = Bag()
    with pytest.raises(fs.ConfigError, match=r"a Bag; expected an accelerate\.Accelerator"):
        FilteredLoader(Bag(), loader, model)
    with pytest.raises(fs.ConfigError, match=r"a DataLoader; expected .*accelerator\.prepare"):
        FilteredLoader(accelerator, bare, model)
    with pytest.raises(fs.ConfigError, match=r"a FilteredLoader; expected"):
        FilteredLoader(accelerator, FilteredLoader(accelerator, loader, model), model)
    with pytest.raises(fs.ConfigError, match=r"epochs is 1\.5; expected a whole number"):
        FilteredLoader(accelerator, loader, model, epochs=1.5)
    with pytest.raises(fs.ConfigError, match="rho-loss' needs a reference model"):
        FilteredLoader(accelerator, loader, model, "rho-loss")
    loader.use_stateful_dataloader = True
    with pytest.raises(fs.ConfigError, match="use_stateful_dataloader=False"):
        FilteredLoader(accelerator, loader, model)
    loader.use_stateful_dataloader = False
    fake = object.__new__(nn.parallel.DistributedDataParallel)  # needs no process group so
    nn.Module.__init__(fake)
    fake.module = Bag()
    FilteredLoader(accelerator, loader, fake)
    compiled = nn.Module()
    compiled._orig_mod = fake
    FilteredLoader(accelerator, loader, compiled)
    with pytest.raises(fs.ConfigError, match="has DistributedDataParallel inside"):
        FilteredLoader(accelerator, loader, Inside(fake))
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"):
        with monkeypatch.context() as patch:
            patch.setattr(type(accelerator), "distributed_type", kind)
            with pytest.raises(fs.ConfigError, match=f"distributed type {kind}"):
                FilteredLoader(accelerator, loader, model)
    dispatched = fresh(dataloader_config=DataLoaderConfiguration(dispatch_batches=True))
    loader = dispatched.prepare(bare)
    assert len(list(FilteredLoader(dispatched, loader, method="full"))) == 3
    monkeypatch.setattr(type(dispatched), "num_processes", 2)
    with pytest.raises(fs.ConfigError, match="dispatch_batches=False"):
        FilteredLoader(dispatched, loader, model)
