"""A training loop on Lightning Fabric; `fabric_loop_sieve.py` is the same, filtered."""

import torch
from common import Texts
from lightning.fabric import Fabric
from torch.nn import functional as F

fabric = Fabric(devices=1)
fabric.seed_everything(0)
texts = Texts()
model = texts.model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model, optimizer = fabric.setup(model, optimizer)
loader = fabric.setup_dataloaders(texts.loader())
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))

model.train()
for batch in loader:
    logits = model(batch["input_ids"], batch["attention_mask"]).logits
    loss = F.cross_entropy(logits, batch["labels"])
    fabric.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    decay.step()

print(f"last loss {loss.item():.6f}")
