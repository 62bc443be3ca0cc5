"""sentence-transformers' trainer, with a sieve attached to it: are two messages about the same?

    python examples/sentence_encoder.py            the plain trainer
    python examples/sentence_encoder.py --sieve    the same, filtered
"""

import argparse
import random

import torch
from common import messages, minilm
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses, modules
from torch.nn.functional import cosine_similarity
from transformers import AutoConfig

from finesieve import attach
from finesieve.gates.features import token_features

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--output", default="out/sentence_encoder")
parser.add_argument("--model", default=minilm())
args = parser.parse_args()


def cosine_losses(model, batch):
    """What CosineSimilarityLoss takes the mean of."""
    first, second = (
        model({k.removeprefix(name): v for k, v in batch.items() if k.startswith(name)})
        ["sentence_embedding"] for name in ("sentence1_", "sentence2_"))
    return (cosine_similarity(first, second) - batch["label"].float()) ** 2


torch.manual_seed(0)
dice = random.Random(0)
texts = messages(args.limit)
pairs = []
for row in texts:
    other = dice.choice(texts)
    pairs.append({"sentence1": row["text"], "sentence2": other["text"],
                  "score": float(row["label"] == other["label"])})
encoder = modules.Transformer(args.model, max_seq_length=48)
width = AutoConfig.from_pretrained(args.model).hidden_size
model = SentenceTransformer(modules=[encoder, modules.Pooling(width)], device="cpu")

trainer = SentenceTransformerTrainer(
    model,
    SentenceTransformerTrainingArguments(
        args.output, per_device_train_batch_size=32, num_train_epochs=1, learning_rate=1e-4,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=25,
        dataloader_pin_memory=False,
    ),
    train_dataset=Dataset.from_list(pairs),
    loss=losses.CosineSimilarityLoss(model),
)

if args.sieve:
    look_at = token_features("sentence2_input_ids", "label", "sentence2_attention_mask")
    attached = attach(trainer, losses=cosine_losses, features=look_at)

steps, loss, metrics = trainer.train()
if args.sieve:
    print(attached.sieve.moves, attached.sieve.ledger.examples)
print(f"{steps} steps, {metrics['train_runtime']:.1f} s, train loss {loss:.6f}")
