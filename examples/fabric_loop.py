"""A training loop on Lightning Fabric, with the sieve around its loader.

    python examples/fabric_loop.py            the plain loop
    python examples/fabric_loop.py --sieve    the same, filtered
"""

import argparse

import torch
from lightning.fabric import Fabric
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finesieve import Sieve, StreamSchedule, inputs, scores
from finesieve.app.docstrings import rows
from finesieve.app.models import resolve

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
args = parser.parse_args()

fabric = Fabric(devices=1)
fabric.seed_everything(0)
data = rows("train")[: args.limit]
names = sorted({row["label"] for row in data})
tokenizer = AutoTokenizer.from_pretrained(resolve("minilm"))
model = AutoModelForSequenceClassification.from_pretrained(resolve("minilm"), num_labels=len(names))


def collate(examples):
    texts = [row["text"] for row in examples]
    batch = tokenizer(texts, truncation=True, max_length=48, padding=True, return_tensors="pt")
    batch["labels"] = torch.tensor([names.index(row["label"]) for row in examples])
    return batch


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model, optimizer = fabric.setup(model, optimizer)
loader = fabric.setup_dataloaders(
    DataLoader(data, batch_size=32, shuffle=True, collate_fn=collate))
steps = len(loader)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

method = "finesieve" if args.sieve else "full"
scorer = scores.Classification(model.module, autocast=fabric.autocast)
sieve = Sieve(scorer, method, total=len(data), batch_size=16)
schedule = StreamSchedule(decay, steps, lambda: sieve.progress)

model.train()
for batch in sieve(loader):
    logits = model(**{k: v for k, v in inputs(batch).items() if k != "labels"}).logits
    losses = F.cross_entropy(logits, batch["labels"], reduction="none")
    fabric.backward(sieve.reduce(losses, batch))
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()

done = sieve.ledger
print(f"stage {sieve.stage}; trained on {done.examples.yielded} of {done.examples.drawn}, "
      f"scored {done.examples.scored}; {sum(done.seconds.values()):.1f} s")
