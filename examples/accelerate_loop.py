"""A loop with Hugging Face Accelerate, with the sieve around its loader.

    python examples/accelerate_loop.py            the plain loop
    python examples/accelerate_loop.py --sieve    the same, filtered
    accelerate launch examples/accelerate_loop.py --sieve    as Accelerate is configured
"""

import argparse

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finesieve import inputs, scores
from finesieve.accelerate import FilteredLoader
from finesieve.app.docstrings import rows
from finesieve.app.models import resolve

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--accumulate", type=int, default=1)
args = parser.parse_args()

accelerator = Accelerator(gradient_accumulation_steps=args.accumulate)
torch.manual_seed(0)
data = rows("train")[: args.limit]
names = sorted({row["label"] for row in data})
tokenizer = AutoTokenizer.from_pretrained(resolve("minilm"))
model = AutoModelForSequenceClassification.from_pretrained(resolve("minilm"), num_labels=len(names))


def collate(examples):
    texts = [row["text"] for row in examples]
    batch = tokenizer(texts, truncation=True, max_length=48, padding=True, return_tensors="pt")
    batch["labels"] = torch.tensor([names.index(row["label"]) for row in examples])
    return batch


loader = DataLoader(data, batch_size=32, shuffle=True, collate_fn=collate)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
steps = -(-len(loader) // args.accumulate)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
model, optimizer, loader, decay = accelerator.prepare(model, optimizer, loader, decay)

method = "finesieve" if args.sieve else "full"
stream = FilteredLoader(accelerator, loader, scores.Classification(model), method)
schedule = stream.schedule(decay)

model.train()
for batch in stream:
    with accelerator.accumulate(model):
        logits = model(**{k: v for k, v in inputs(batch).items() if k != "labels"}).logits
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        accelerator.backward(stream.reduce(losses, batch))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

done = stream.sieve.ledger
accelerator.print(
    f"stage {stream.sieve.stage}; trained on {done.examples.yielded} of {done.examples.drawn}, "
    f"scored {done.examples.scored}; {sum(done.seconds.values()):.1f} s"
)
