"""TRL's SFTTrainer on a small language model of random weights, with a sieve attached to it.

    python examples/sft.py            the plain trainer
    python examples/sft.py --sieve    the same, filtered
"""

import argparse

import torch
from common import messages
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from finesieve import attach

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--output", default="out/sft")
args = parser.parse_args()

torch.manual_seed(0)
texts = [row["text"] for row in messages(args.limit)]
data = Dataset.from_dict({"text": texts})
words = Tokenizer(models.BPE())  # gives the same tokens each time; BERT's is trained otherwise
words.pre_tokenizer = pre_tokenizers.ByteLevel()
words.train_from_iterator(texts, trainers.BpeTrainer(
    vocab_size=2000, special_tokens=["<pad>", "<end>"], show_progress=False))
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
model = GPT2LMHeadModel(GPT2Config(
    vocab_size=len(tokenizer), n_positions=64, n_embd=128, n_layer=2, n_head=4,
    bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
))

trainer = SFTTrainer(
    model,
    SFTConfig(
        args.output, per_device_train_batch_size=32, num_train_epochs=1, learning_rate=1e-3,
        max_length=64, bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_steps=25,
    ),
    train_dataset=data,
    processing_class=tokenizer,
)

if args.sieve:
    attached = attach(trainer)

steps, loss, metrics = trainer.train()
if args.sieve:
    print(attached.sieve.moves, attached.sieve.ledger.examples)
print(f"{steps} steps, {metrics['train_runtime']:.1f} s, train loss {loss:.6f}")
