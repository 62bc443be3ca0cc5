"""The reference model of a method that needs one, trained before the run on examples of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finesieve.cli.training.batches import Loader, by_length
from finesieve.cli.training.schedule import linear_schedule


def refer(run: Any) -> None:
    """Trains the method's reference model on the holdout, and hands its losses to the method's
    backward gate. All of it is booked: as training, and as scoring.

    Args:
        run: a `training.train.Run` with a holdout, before its first step.
    """
    ledger, config = run.sieve.ledger, run.config
    run.live.say(f"training a reference model on {len(run.holdout)} held-out examples")
    with ledger.spending("train"):
        model = run.load(config.seed + 1)
        model.to(run.device).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        loader = Loader(run.data.train, config.batch_size, config.seed, 0, run.holdout)
        schedule = linear_schedule(optimizer, len(loader), config.warmup)
        for batch in loader:
            run.losses(model, batch).mean().backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    with ledger.spending("score"):
        model.eval()
        with torch.inference_mode():
            for index, batch in by_length(run.data.train, 128, run.some):
                run.method.backward.refer(index, run.losses(model, batch).cpu().numpy())
