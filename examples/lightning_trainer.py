"""Lightning's Trainer, with the sieve as a callback around the train loader.

    python examples/lightning_trainer.py            plain Lightning
    python examples/lightning_trainer.py --sieve    the same, filtered
"""

import argparse
import time

import lightning as L
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finesieve import heads, inputs
from finesieve.app.docstrings import rows
from finesieve.app.models import resolve
from finesieve.lightning import SieveCallback

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
args = parser.parse_args()

L.seed_everything(0)
data = rows("train")[: args.limit]
names = sorted({row["label"] for row in data})
tokenizer = AutoTokenizer.from_pretrained(resolve("minilm"))


def collate(examples):
    texts = [row["text"] for row in examples]
    batch = tokenizer(texts, truncation=True, max_length=48, padding=True, return_tensors="pt")
    batch["labels"] = torch.tensor([names.index(row["label"]) for row in examples])
    return batch


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(
            resolve("minilm"), num_labels=len(names))

    def forward(self, **batch):
        return self.model(**batch).logits

    def training_step(self, batch, index):
        logits = self(**{k: v for k, v in inputs(batch).items() if k != "labels"})
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        return self.sieved.reduce(losses, batch)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-4)
        decay = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.0, total_iters=self.sieved.steps)
        return [optimizer], [self.sieved.schedule(decay)]


loader = DataLoader(data, batch_size=32, shuffle=True, collate_fn=collate)
method = "finesieve" if args.sieve else "full"
module = Classifier()
module.sieved = SieveCallback(method, head=heads.SingleLabel(), batch_size=16)
trainer = L.Trainer(
    max_epochs=1, callbacks=[module.sieved], logger=False, enable_checkpointing=False,
    enable_progress_bar=False,
)
start = time.perf_counter()
trainer.fit(module, module.sieved(loader))
print(f"{trainer.global_step} steps, {time.perf_counter() - start:.1f} s")
