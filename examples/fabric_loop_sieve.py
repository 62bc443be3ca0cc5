"""A training loop on Lightning Fabric, filtered; `fabric_loop.py` is the same without."""

import torch
from common import Texts
from lightning.fabric import Fabric
from torch.nn import functional as F

from finesieve import Sieve, SieveOptions

fabric = Fabric(devices=1)
fabric.seed_everything(0)
texts = Texts()
model = texts.model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model, optimizer = fabric.setup(model, optimizer)
loader = fabric.setup_dataloaders(texts.loader())
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))

options = SieveOptions(autocast=fabric.autocast)
sieve = Sieve(model.module, total=len(texts.data), options=options)
decay = sieve.schedule(decay)

model.train()
for batch in sieve(loader):
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    loss = sieve.loss(F.cross_entropy(logits, batch["labels"], reduction="none"), batch)
    fabric.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    decay.step()

print(sieve.moves, sieve.ledger.examples)
print(f"last loss {loss.item():.6f}")
