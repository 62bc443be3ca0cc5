"""Lightning's Trainer, filtered; `lightning_trainer.py` is the same without."""

import lightning as L
import torch
from common import Texts
from torch.nn import functional as F

from finesieve import heads
from finesieve.integrations.lightning import SieveCallback


class Classifier(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, **others):
        return self.model(input_ids, attention_mask).logits

    def training_step(self, batch, index):
        logits = self(batch["input_ids"], batch["attention_mask"])
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        self.last = loss = self.sieved.loss(losses, batch)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-4)
        steps = self.sieved.steps
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        return [optimizer], [self.sieved.schedule(decay)]


L.seed_everything(0)
texts = Texts()
module, loader = Classifier(texts.model()), texts.loader()
module.sieved = SieveCallback(head=heads.SingleLabel(), batch_size=16)
trainer = L.Trainer(
    max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    callbacks=[module.sieved])
trainer.fit(module, module.sieved(loader))
print(module.sieved.sieve.moves, module.sieved.sieve.ledger.examples)
print(f"last loss {module.last.item():.6f}")
