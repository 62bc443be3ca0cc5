"""TRL's DPOTrainer on a small language model of random weights, with a sieve attached to it: the
chosen text goes on as the message does, the rejected one as another does.

    python examples/preferences.py            the plain trainer
    python examples/preferences.py --sieve    the same, filtered
"""

import argparse
import random

import numpy as np
import torch
from common import messages
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import logsigmoid
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from finesieve import attach

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--output", default="out/preferences")
args = parser.parse_args()


def dpo_losses(model, batch):
    """What DPO's sigmoid loss takes the mean of: a pair is one example."""
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"],
             "labels": batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100),
             "use_cache": False, "fused_lm_head": True}
    with torch.no_grad():
        before = trainer.ref_model(**given).log_probs.sum(dim=1)
    chosen, rejected = (model(**given).log_probs.sum(dim=1) - before).chunk(2)
    return -logsigmoid(trainer.beta * (chosen - rejected))


torch.manual_seed(0)
dice = random.Random(0)
texts = [row["text"].split() for row in messages(args.limit)]
pairs = []
for words in texts:
    other, half = dice.choice(texts), len(words) // 2 + 1
    pairs.append({"prompt": " ".join(words[:half]), "chosen": " " + " ".join(words[half:]),
                  "rejected": " " + " ".join(other[len(other) // 2 + 1:])})
words = Tokenizer(models.BPE())  # gives the same tokens each time; BERT's is trained otherwise
words.pre_tokenizer = pre_tokenizers.ByteLevel()
words.train_from_iterator(map(" ".join, texts), trainers.BpeTrainer(
    vocab_size=2000, special_tokens=["<pad>", "<end>"], show_progress=False))
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def language_model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=128, n_layer=2, n_head=4,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id))


trainer = DPOTrainer(
    language_model(), language_model(),
    args=DPOConfig(
        args.output, per_device_train_batch_size=32, num_train_epochs=1, learning_rate=1e-3,
        max_length=64, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_steps=25,
    ),
    train_dataset=Dataset.from_list(pairs),
    processing_class=tokenizer,
)

if args.sieve:
    attached = attach(trainer, losses=dpo_losses, size=lambda loss: 1.0 - np.exp(-loss))

steps, loss, metrics = trainer.train()
if args.sieve:
    print(attached.sieve.moves, attached.sieve.ledger.examples)
print(f"{steps} steps, {metrics['train_runtime']:.1f} s, train loss {loss:.6f}")
