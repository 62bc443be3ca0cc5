"""Lightning's Trainer; `lightning_trainer_sieve.py` is the same, filtered."""

import lightning as L
import torch
from common import Texts
from torch.nn import functional as F


class Classifier(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, **others):
        return self.model(input_ids, attention_mask).logits

    def training_step(self, batch, index):
        logits = self(batch["input_ids"], batch["attention_mask"])
        self.last = loss = F.cross_entropy(logits, batch["labels"])
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-4)
        steps = self.trainer.estimated_stepping_batches
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        return [optimizer], [{"scheduler": decay, "interval": "step"}]


L.seed_everything(0)
texts = Texts()
module, loader = Classifier(texts.model()), texts.loader()
trainer = L.Trainer(
    max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(module, loader)
print(f"last loss {module.last.item():.6f}")
