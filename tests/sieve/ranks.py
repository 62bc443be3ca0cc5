"""Run by test_ranks.py in two processes: unequal streams, one process group."""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import finesieve as fs
from finesieve.sieve.ranks import Ranks
from tests.conftest import Bag, make_batches


def main(rank: int, store: str, method: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(Bag(dropout=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    n = 2400 if rank == 0 else 2000
    settings = {
        "paper": {"window": 300, "warmup": 0.2, "log_loss": 0.69},
        "finesieve": {
            "predictor_bits": 10,
            "patience": 200,
            "warmup": 0.0,
            "cost_ratio": 0.02,
            "train": 0.4,
            "margin": 0.0,
        },
        "budget": {
            "predictor_bits": 10,
            "budget": 0.4,
            "patience": 200,
            "margin": 0.0,
            "cost_ratio": 0.02,
        },
    }[method]
    method = "finesieve" if method == "budget" else method
    sieve = fs.Sieve(
        model,
        fs.methods.registry.build(method, rank, **settings),
        total=n,
        options=fs.SieveOptions(pool=100, group=2, agreement=Ranks()),
    )
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=300)
    schedule = fs.StreamSchedule(decay, 300, lambda: sieve.progress)
    steps, moves, fillers = 0, [], 0
    for batch in sieve(make_batches(n, seed=rank)):
        bare = fs.inputs(batch)
        labels = bare.pop("labels")
        losses = F.cross_entropy(model(**bare), labels, reduction="none")
        sieve.loss(losses, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        steps, fillers = steps + 1, fillers + fs.is_filler(batch)
        while len(moves) < len(sieve.moves):
            moves.append([sieve.moves[len(moves)]["stage"], steps])
    c = sieve.ledger.examples
    print(
        json.dumps(
            {
                "steps": steps,
                "moves": moves,
                "weight": float(model.module.head.weight.sum()),
                "threshold": getattr(sieve.method.backward, "threshold", None),
                "drawn": c.drawn - n,
                "held": sieve.held,
                "fillers": fillers,
                "progress": sieve.progress,
                "rate": optimizer.param_groups[0]["lr"],
                "conserved": c.drawn == c.dropped + c.yielded + sieve.held,
            }
        )
    )
    dist.barrier()  # neither rank leaves while the other still talks
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads can abort an interpreter that ends in good order


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
