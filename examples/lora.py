"""Hugging Face's Trainer on low-rank adapters (PEFT), with a sieve attached to it.

    python examples/lora.py            the plain Trainer
    python examples/lora.py --sieve    the same, filtered
"""

import argparse

import torch
from common import messages, minilm
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from finesieve import attach

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--output", default="out/lora")
parser.add_argument("--model", default=minilm())
args = parser.parse_args()

torch.manual_seed(0)
data = messages(args.limit)
names = sorted({row["label"] for row in data})
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(names))
model = get_peft_model(
    model, LoraConfig(task_type="SEQ_CLS", r=16, target_modules=["query", "value"])
)
train = [
    {**tokenizer(row["text"], truncation=True, max_length=48), "labels": names.index(row["label"])}
    for row in data
]

trainer = Trainer(
    model,
    TrainingArguments(
        args.output, per_device_train_batch_size=32, num_train_epochs=1, learning_rate=2e-3,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=25,
    ),
    data_collator=DataCollatorWithPadding(tokenizer),
    train_dataset=train,
)

if args.sieve:
    attached = attach(trainer)

steps, loss, metrics = trainer.train()
if args.sieve:
    print(attached.sieve.moves, attached.sieve.ledger.examples)
print(f"{steps} steps, {metrics['train_runtime']:.1f} s, train loss {loss:.6f}")
