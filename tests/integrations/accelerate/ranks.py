"""A loop with Accelerate; run by test_accelerate.py, also in two processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import finesieve as fs
from finesieve.integrations.accelerate import FilteredLoader
from tests.conftest import Bag, make_batches

OPTIONS = {"pool": 32, "group": 2}


def closed(seed: int = 0, **settings: Any) -> fs.Method:
    """Ours, with gates that close early and by hand; the clock decides nothing."""
    return fs.methods.registry.build(
        "finesieve",
        seed,
        **{
            "train": 0.3,
            "score": 0.6,
            "starts": {2: 0.15, 3: 0.4},
            "cost_ratio": 0.2,
            "predictor_bits": 12,
            **settings,
        },
    )


class Lopsided(fs.Gate):
    """Keeps half of one rank's examples and a quarter of the other's."""

    def __init__(self, rank: int) -> None:
        self._every = 2 + 2 * rank

    def decide(self, offer: fs.Offer) -> fs.Verdict:
        return fs.Verdict(offer.ids % self._every == 0)


def lopsided(rank: int) -> fs.Method:
    return fs.Method("lopsided", fs.Open(), Lopsided(rank), fs.Fixed({2: 0.0}))


class Buffered(Bag):
    """With a buffer, which DistributedDataParallel's forward broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += self.training
        return super().forward(*args, **kwargs)


def rows(n: int) -> list[dict[str, Any]]:
    return [{k: v[0] for k, v in batch.items()} for batch in make_batches(n, batch=1)]


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(e["input_ids"]) for e in examples)
    batch = {
        k: torch.stack([F.pad(e[k], (0, width - len(e[k]))) for e in examples])
        for k in ("input_ids", "attention_mask")
    }
    return {**batch, "labels": torch.stack([e["labels"] for e in examples])}


def fresh(accumulated: int = 1, **options: Any) -> Accelerator:
    """An accelerator as in a new process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, gradient_accumulation_steps=accumulated, **options)


class Run:
    """One training. At each batch: `sync`, whether the optimizer stepped; `rates`; `batches`."""

    def __init__(
        self,
        method: Any = None,
        *,
        accumulated: int = 1,
        epochs: int = 2,
        n: int = 300,
        dropout: float = 0.1,
        save: tuple[int, Path] | None = None,
        load: Path | None = None,
        seed: int = 0,
        model: Callable[[], nn.Module] | None = None,
        stop: int | None = None,
        options: Any = None,
        prepared: bool = True,
        generator: torch.Generator | None = None,
        losses: Any = None,
        detach: int | None = None,
        **more: Any,
    ) -> None:
        self.accelerator = accelerator = fresh(accumulated, **more)
        self.model = model() if model else Bag(dropout=dropout)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        loader = DataLoader(rows(n), 8, shuffle=True, collate_fn=collate, generator=generator)
        torch.manual_seed(seed)
        net, prepared_optimizer, loader = accelerator.prepare(self.model, optimizer, loader)
        steps = -(-len(loader) // accumulated) * epochs
        if prepared:  # stepped once for each rank
            steps *= accelerator.num_processes
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        optimizer = prepared_optimizer
        schedule = accelerator.prepare(decay) if prepared else decay
        self.stream: Any = loader
        first = 0
        if method is not None:
            self.stream = FilteredLoader(
                accelerator,
                loader,
                net,
                method,
                epochs=epochs,
                **(options or OPTIONS),
            )
            schedule = self.stream.schedule(schedule)
            if load:
                accelerator.load_state(str(load))
            first = self.stream.passes
        self.sync: list[list[bool]] = []
        self.rates: list[float] = []
        self.batches: list[Any] = []
        for _ in range(first, epochs):
            self.sync.append([])
            for batch in self.stream:
                self.batches.append(dict(batch))
                if len(self.batches) == detach:
                    self.stream.detach()
                with accelerator.accumulate(net):
                    bare = fs.inputs(batch)
                    labels = bare.pop("labels")
                    each = F.cross_entropy(net(**bare), labels, reduction="none")
                    loss = each.mean() if method is None else self.stream.loss(each, batch)
                    accelerator.backward(loss)
                    self.rates.append(optimizer.param_groups[0]["lr"])
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                self.sync[-1].append(accelerator.sync_gradients)
                if save and 0 < save[0] <= len(self.batches) and accelerator.sync_gradients:
                    accelerator.save_state(str(save[1]))
                    save = None
                if len(self.batches) == stop:
                    return
            if save and save[0] == 0:  # between passes
                accelerator.save_state(str(save[1]))
                save = None

    @property
    def steps(self) -> int:
        return sum(map(sum, self.sync))

    @property
    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


def equal(a: Run, b: Run) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))


def main(folder: str) -> None:
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"accumulated": 3, "n": 160, "model": Buffered}
    whole = Run(closed(7), save=(8, Path(folder)), **settings)
    sieve = whole.stream.sieve
    out = {
        "weights": [w.flatten().tolist() for w in whole.weights],
        "sync": whole.sync,
        "rates": whole.rates,
        "moves": [m["stage"] for m in sieve.moves],
        "ids": [i for b in whole.batches for i in b["sieve_ids"].tolist()],
        "drawn": sieve.ledger.examples.drawn,
        "passes": whole.stream.passes,
        "resumed": equal(whole, Run(closed(7), load=Path(folder), seed=5, **settings)),
    }
    # Saved in the first pass when one rank has nothing left of it, and the other has.
    uneven, second = {**settings, "accumulated": 1}, Path(folder) / "second"
    rank = whole.accelerator.process_index
    saved = Run(lopsided(rank), save=(4, second), **uneven)
    again = Run(lopsided(rank), load=second, seed=5, **uneven)
    drawn = saved.stream.sieve.ledger.examples.drawn
    out["uneven"] = [len(saved.sync[0]), drawn, equal(saved, again)]
    # One rank has fewer survivors than the other when both are detached.
    let_go = Run(lopsided(rank), detach=3, **{**uneven, "n": 156})
    out["detached"] = {
        "weights": [w.flatten().tolist() for w in let_go.weights],
        "rates": let_go.rates,
        "plain": ["sieve_ids" not in b for b in let_go.batches],
        "progress": let_go.stream.sieve.progress,
    }
    plain = Run(**settings)
    for name, method in (("full", "full"), ("open", closed(starts={}))):
        again = Run(method, **settings)
        out[name] = equal(plain, again) and plain.sync == again.sync and plain.rates == again.rates
    print(json.dumps(out))
    torch.distributed.barrier()  # neither rank leaves while the other still talks
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
