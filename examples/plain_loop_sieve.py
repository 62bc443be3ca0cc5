"""A plain PyTorch loop, filtered; `plain_loop.py` is the same without."""

import torch
from common import Texts
from torch.nn import functional as F

from finesieve import Sieve, StreamSchedule, scores

torch.manual_seed(0)
texts = Texts()
model, loader = texts.model(), texts.loader()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))

sieve = Sieve(scores.Classification(model), total=len(texts.data), batch_size=16)
decay = StreamSchedule(decay, len(loader), lambda: sieve.progress)

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
