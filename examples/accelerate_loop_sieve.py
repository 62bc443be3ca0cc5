"""A loop with Hugging Face Accelerate, filtered; `accelerate_loop.py` is the same without.

    python examples/accelerate_loop_sieve.py
    accelerate launch examples/accelerate_loop_sieve.py    as Accelerate is configured
"""

import torch
from accelerate import Accelerator
from common import Texts
from torch.nn import functional as F

from finesieve.integrations.accelerate import FilteredLoader

accelerator = Accelerator(gradient_accumulation_steps=1)
torch.manual_seed(0)
texts = Texts()
model, loader = texts.model(), texts.loader()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(loader))
model, optimizer, loader, decay = accelerator.prepare(model, optimizer, loader, decay)

stream = FilteredLoader(accelerator, loader, model)
decay = stream.schedule(decay)

model.train()
for batch in stream:
    with accelerator.accumulate(model):
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        loss = stream.loss(F.cross_entropy(logits, batch["labels"], reduction="none"), batch)
        accelerator.backward(loss)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()

accelerator.print(stream.sieve.moves, stream.sieve.ledger.examples)
accelerator.print(f"last loss {loss.item():.6f}")
