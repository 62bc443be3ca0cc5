"""TRL's SFTTrainer on a small language model of random weights, with a sieve attached to it.

    python examples/sft.py            the plain trainer
    python examples/sft.py --sieve    the same, filtered
"""

import argparse

import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from trl import SFTConfig, SFTTrainer

from finesieve import hf
from finesieve.app.docstrings import rows
from finesieve.app.models import resolve

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--output", default="out/sft")
args = parser.parse_args()

torch.manual_seed(0)
texts = [row["text"] for row in rows("train")[: args.limit]]
data = Dataset.from_dict({"text": texts})
tokenizer = AutoTokenizer.from_pretrained(resolve("minilm")).train_new_from_iterator(texts, 2000)
tokenizer.eos_token = tokenizer.sep_token
model = GPT2LMHeadModel(GPT2Config(
    vocab_size=len(tokenizer), n_positions=64, n_embd=128, n_layer=2, n_head=4,
    bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
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
    hf.attach(trainer)

trainer.train()
print(f"{trainer.state.global_step} steps, {trainer.state.log_history[-1]['train_runtime']:.1f} s")
