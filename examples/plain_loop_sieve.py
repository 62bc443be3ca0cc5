"""A plain PyTorch loop, filtered; `plain_loop.py` is the same without."""

import torch
from common import Texts
from torch.nn import functional as F

from finesieve import Sieve

torch.manual_seed(0)
texts = Texts()
model, loader = texts.model(), texts.loader()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))

sieve = Sieve(model, total=len(texts.data))
decay = sieve.schedule(decay)

model.train()
for batch in sieve(loader):
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    loss = sieve.loss(F.cross_entropy(logits, batch["labels"], reduction="none"), batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    decay.step()

print(sieve.moves, sieve.ledger.examples)
print(f"last loss {loss.item():.6f}")
