"""A plain PyTorch loop; `plain_loop_sieve.py` is the same, filtered."""

import torch
from common import Texts
from torch.nn import functional as F

torch.manual_seed(0)
texts = Texts()
model, loader = texts.model(), texts.loader()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))

model.train()
for batch in loader:
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    loss = F.cross_entropy(logits, batch["labels"])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    decay.step()

print(f"last loss {loss.item():.6f}")
