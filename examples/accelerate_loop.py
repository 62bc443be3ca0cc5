"""A loop with Hugging Face Accelerate; `accelerate_loop_sieve.py` is the same, filtered."""

import torch
from accelerate import Accelerator
from common import Texts
from torch.nn import functional as F

accelerator = Accelerator(gradient_accumulation_steps=1)
torch.manual_seed(0)
texts = Texts()
model, loader = texts.model(), texts.loader()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))
model, optimizer, loader, decay = accelerator.prepare(model, optimizer, loader, decay)

model.train()
for batch in loader:
    with accelerator.accumulate(model):
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        loss = F.cross_entropy(logits, batch["labels"])
        accelerator.backward(loss)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()

accelerator.print(f"last loss {loss.item():.6f}")
