"""What the loops share: docstrings of several libraries (which is it from?), MiniLM, batches."""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finesieve.cli.training.docstrings import rows
from finesieve.cli.training.models import resolve


class Texts:
    """The first `--limit` of them."""

    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--limit", type=int, default=6000)
        self.data = rows("train")[: parser.parse_args().limit]
        self.names = sorted({row["label"] for row in self.data})
        self.tokenizer = AutoTokenizer.from_pretrained(resolve("minilm"))

    def collate(self, examples):
        texts = [row["text"] for row in examples]
        batch = self.tokenizer(
            texts, truncation=True, max_length=48, padding=True, return_tensors="pt")
        batch["labels"] = torch.tensor([self.names.index(row["label"]) for row in examples])
        return batch

    def loader(self):
        return DataLoader(self.data, batch_size=32, shuffle=True, collate_fn=self.collate)

    def model(self):
        return AutoModelForSequenceClassification.from_pretrained(
            resolve("minilm"), num_labels=len(self.names))
