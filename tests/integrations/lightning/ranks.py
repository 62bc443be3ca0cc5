"""Run by test_lightning.py: two processes, started by Lightning; one saves and both resume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler

from tests.integrations.lightning.kit import ROWS, Classifier, loader, same, sieved, trainer


def run(folder: Path, ckpt: Path | None = None) -> tuple[Classifier, Any]:
    torch.manual_seed(0)
    callback = sieved()
    module = Classifier(callback, decay=True)
    save = ModelCheckpoint(folder, every_n_train_steps=8, save_top_k=-1, filename="{step}")
    host = trainer(folder, callback, save, strategy="ddp", devices=2)
    sampler = DistributedSampler(ROWS, host.world_size, host.global_rank, shuffle=True)
    host.fit(module, callback(loader(sampler=sampler)), ckpt_path=ckpt)
    return module, host


def main(folder: Path) -> None:
    whole, host = run(folder / "whole")
    again, _ = run(folder / "again", folder / "whole" / "step=8.ckpt")
    sieve = whole.sieved.sieve
    alike = same(whole, again) and again.seen == whole.seen[8:]
    moves = ", ".join(str(m["stage"]) for m in sieve.moves)
    line = f"rank {host.global_rank}: stage {sieve.stage} of {moves}; "
    sys.stdout.write(f"{line}resumed {'alike' if alike else 'otherwise'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
