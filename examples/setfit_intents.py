"""SetFit, with a sieve on the inner trainer that fits the encoder to pairs: what is a
message about?

    python examples/setfit_intents.py            the plain trainer
    python examples/setfit_intents.py --sieve    the same, filtered
"""

import argparse

import torch
from common import messages, minilm
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cosine_similarity
from transformers import AutoConfig

from finesieve import attach
from finesieve.gates.features import token_features

parser = argparse.ArgumentParser()
parser.add_argument("--sieve", action="store_true")
parser.add_argument("--limit", type=int, default=3000)
parser.add_argument("--output", default="out/setfit_intents")
parser.add_argument("--model", default=minilm())
args = parser.parse_args()


def cosine_losses(model, batch):
    """What CosineSimilarityLoss, SetFit's default, takes the mean of."""
    first, second = (
        model({k.removeprefix(name): v for k, v in batch.items() if k.startswith(name)})
        ["sentence_embedding"] for name in ("sentence_1_", "sentence_2_"))
    return (cosine_similarity(first, second) - batch["label"].float()) ** 2


torch.manual_seed(0)
encoder = modules.Transformer(args.model, max_seq_length=48)
width = AutoConfig.from_pretrained(args.model).hidden_size
body = SentenceTransformer(modules=[encoder, modules.Pooling(width)], device="cpu")

trainer = Trainer(
    SetFitModel(body, LogisticRegression(max_iter=1000)),
    TrainingArguments(
        args.output, batch_size=32, num_epochs=1, num_iterations=1,  # two pairs a text
        body_learning_rate=1e-4, report_to="none", save_strategy="no", show_progress_bar=False,
    ),
    train_dataset=Dataset.from_list(messages(args.limit)),
)

if args.sieve:
    look_at = token_features("sentence_2_input_ids", "label", "sentence_2_attention_mask")
    attached = attach(trainer.st_trainer, losses=cosine_losses, features=look_at)

trainer.train()
if args.sieve:
    print(attached.sieve.moves, attached.sieve.ledger.examples)
print(trainer.model.predict(["My tent was torn when I unpacked it."]))
end = trainer.st_trainer.state.log_history[-1]
print(f"{end['step']} steps, {end['train_runtime']:.1f} s, train loss {end['train_loss']:.6f}")
