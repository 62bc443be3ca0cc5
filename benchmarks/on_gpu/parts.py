"""What is measured: each part gives a record, and each record one line in words."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import finesieve
from benchmarks.on_gpu import inputs
from benchmarks.on_gpu.inputs import Batch, Texts, placed, sets_in
from benchmarks.on_gpu.training import (
    SMALL_WORDS,
    Loop,
    bare,
    causal,
    encoder,
    minilm,
    quality,
    repeated,
    shape,
    trained,
    wait,
)

Record = dict[str, Any]
Earlier = dict[str, Record]


@dataclass(frozen=True)
class Scale:
    """How much is done. The full scale is for a GPU; the quick one shows that everything runs."""

    block: int = 25  # steps that plain and filtered training take in turns
    rounds: int = 8
    examples: int | None = None  # of each set; all by default
    grid: tuple[str, ...] = ("minilm", "12x768", "24x1024")
    sizes: tuple[int, ...] = (32, 8, 128)
    lengths: tuple[int, ...] = (16, 128, 512)
    compiled: tuple[bool, ...] = (False, True)
    pools: int = 12
    trainer: int = 1_200  # examples of the Trainer's runs
    words: int = 50_000  # of the causal model's vocabulary
    longest: int = 512  # tokens of its texts
    causal: tuple[int, int] = (6, 512)  # its layers and width
    seeds: int = 2
    small: bool = False  # tiny encoders in place of MiniLM


QUICK = Scale(
    block=2,
    rounds=2,
    examples=320,
    grid=("2x32",),
    sizes=(8,),
    lengths=(16,),
    compiled=(False,),
    pools=4,
    trainer=96,
    words=500,
    longest=32,
    causal=(1, 32),
    seeds=1,
    small=True,
)


@dataclass(frozen=True)
class Part:
    """Something to measure. guess: seconds that it takes on an H100, about.

    run: gives its record, from the records so far. say: puts a record into words.
    """

    name: str
    guess: float
    run: Callable[[Earlier], Record]
    say: Callable[[Record], str]


class Check:
    """All parts, for the inputs of one folder, on one device."""

    def __init__(self, folder: Path, device: torch.device, scale: Scale) -> None:
        self.folder, self.device, self.scale = folder, device, scale
        self.precision = "fp32" if device.type == "cpu" else "bf16"

    def parts(self) -> Iterator[Part]:
        """Yields the parts, the most important first."""
        scale, names = self.scale, sets_in(self.folder)
        yield Part("open", 25, lambda _: self.open_gates(names[0]), say_open)
        for seed in range(scale.seeds):
            for name in [x for x in names if x != "snips"] or names:
                for how in ("plain", "finesieve", "random", "full"):
                    key = f"{name}/{seed}"
                    yield Part(
                        f"{key}/{how}",
                        60 if name == "sst2" else 25,
                        lambda done, name=name, how=how, seed=seed: self.one_run(  # type: ignore[misc]
                            name, how, seed, done
                        ),
                        lambda record, key=key, how=how: say_run(key, how, record),  # type: ignore[misc]
                    )
            if seed == 0:
                yield Part("trainer", 90, lambda _: self.trainer(names[-1]), say_trainer)
                yield Part("fp32", 30, lambda _: self.single(), say_single)
                yield Part("fp16", 20, lambda _: self.half(names[0]), say_half)
                yield Part("causal", 30, lambda _: self.causal(), say_causal)
                yield from self.prices()  # as many as there is time for

    # ---- a

    def read(self, name: str) -> tuple[Texts, Texts, int]:
        """Returns a set's texts to train on, those to evaluate on, and the number of classes."""
        texts, evaluated, classes = inputs.read(self.folder, name)
        if self.scale.small:
            return texts.modulo(SMALL_WORDS), evaluated.some(200).modulo(SMALL_WORDS), classes
        return texts, evaluated, classes

    def model(self, classes: int, seed: int = 0) -> nn.Module:
        """Returns the model of most parts."""
        if self.scale.small:
            return encoder("2x32", classes, seed)
        return minilm(self.folder, classes, seed)

    def open_gates(self, name: str) -> Record:
        """Times a plain loop and a sieve with open gates in turns, on the same batches."""
        texts, _, classes = self.read(name)
        scale, times = self.scale, {"plain": list[float](), "sieve": list[float]()}
        loops = {how: Loop(self.model(classes), self.device, self.precision) for how in times}
        sieve = loops["sieve"].sieve(finesieve.Manual({}), len(texts), head_start=0)
        streams: dict[str, Any] = {how: repeated(texts, 32) for how in times}
        streams["sieve"] = sieve(streams["sieve"])
        for turn in range(2 * (scale.rounds + 1)):  # the first of each is the warm-up
            how = ("plain", "sieve", "sieve", "plain")[turn % 4]
            reduce = sieve.loss if how == "sieve" else None
            wait(self.device)
            begin = time.perf_counter()
            for batch in islice(streams[how], scale.block):
                loops[how].step(batch, reduce)
            wait(self.device)
            times[how].append((time.perf_counter() - begin) / scale.block)
        plain, sieved = (statistics.median(times[how][1:]) for how in ("plain", "sieve"))
        return {"plain_seconds": plain, "sieve_seconds": sieved, "ratio": sieved / plain}

    # ---- b

    def prices(self) -> Iterator[Part]:
        """Yields the grid: models, batch sizes, lengths, eager and compiled."""
        scale = self.scale
        for compiled in scale.compiled:
            for size in scale.sizes:
                for longest in scale.lengths:
                    for model in scale.grid:
                        how = "compiled" if compiled else "eager"
                        yield Part(
                            f"price/{model}/{size}/{longest}/{how}",
                            15 + 25 * compiled,
                            lambda _, a=(model, size, longest, compiled): self.price(*a),  # type: ignore[misc]
                            say_price,
                        )

    def price(self, name: str, size: int, longest: int, compiled: bool) -> Record:
        """Measures scoring over training of an example, by the sieve and from outside."""
        count = -(-256 * self.scale.pools // size)
        texts = shape(size, longest, count)
        model: Any = self.model(2) if name == "minilm" else encoder(name)
        texts = texts.modulo(model.config.vocab_size)
        loop = Loop(model, self.device, self.precision, compiled)
        method = finesieve.Manual({2: 0.25}, train=0.25)
        told = trained(loop, texts, size, 0, method, head_start=0)
        score, train = told["costs"]
        return {
            "model": name,
            "batch": size,
            "longest": longest,
            "compiled": compiled,
            "sieve": score,
            "survivor": train,
            "outside": self._scoring(loop, texts) / self._training(loop, texts, size),
            "scored": told["scored"],
        }

    def _training(self, loop: Loop, texts: Texts, size: int) -> float:
        """Seconds to train on an example, in a plain loop: median of five stretches."""
        stream, found = repeated(texts, size), []
        steps = max(2, min(20, len(texts) // size))
        for _ in range(6):
            wait(self.device)
            begin = time.perf_counter()
            for batch in islice(stream, steps):
                loop.step(batch)
            wait(self.device)
            found.append((time.perf_counter() - begin) / (steps * size))
        return statistics.median(found[1:])

    def _scoring(self, loop: Loop, texts: Texts) -> float:
        """Seconds to score an example: pools of 256, by length, in forwards of 16,384 tokens."""
        lengths, found = np.diff(texts.starts), []
        forward: Any = loop.forward
        forward.eval()
        for at in range(0, min(len(texts), 256 * 6), 256):
            rows = np.arange(at, min(len(texts), at + 256))
            rows = rows[np.argsort(lengths[rows])]
            wait(self.device)
            begin = time.perf_counter()
            some = max(1, 16_384 // int(lengths[rows].max()))
            for cut in range(0, len(rows), some):
                batch = placed(texts.batch(rows[cut : cut + some]), self.device)
                with torch.no_grad(), loop.autocast():
                    loop.head.both(forward(**bare(batch)), batch)
            wait(self.device)
            found.append((time.perf_counter() - begin) / len(rows))
        forward.train()
        return statistics.median(found[1:])

    # ---- c

    def one_run(self, name: str, how: str, seed: int, done: Earlier) -> Record:
        """Trains one pass: plain, full with the head start, finesieve, or random at its time."""
        texts, evaluated, classes = self.read(name)
        texts = texts.some(self.scale.examples or len(texts))
        method: Any = {"plain": None, "full": finesieve.Full(), "finesieve": finesieve.Adaptive()}
        if how == "random":
            plain, ours = (done[f"{name}/{seed}/{x}"]["seconds"] for x in ("plain", "finesieve"))
            share = min(1.0, max(0.02, ours / plain))
            method = finesieve.RandomSubset(share) if share < 1.0 else finesieve.Full()
        else:
            method = method[how]
        loop = Loop(self.model(classes, seed), self.device, self.precision)
        more = {} if method is None else {"head_start": 512}
        told = trained(loop, texts, 32, seed, method, **more)
        return {**told, **quality(loop, evaluated, classes)}

    # ---- d

    def trainer(self, name: str) -> Record:
        """Trains with the Trainer's own defaults (batches of 8, 3 epochs), plain and attached."""
        from transformers import PrinterCallback, Trainer, TrainingArguments

        texts, evaluated, classes = self.read(name)
        texts = texts.some(self.scale.trainer)
        told: Record = {"set": name}

        def collate(rows: list[Any]) -> Batch:
            return texts.batch(np.array([int(row["row"]) for row in rows]))

        for how in ("plain", "attached"):
            with tempfile.TemporaryDirectory() as folder:
                args = TrainingArguments(
                    folder,
                    bf16=self.precision == "bf16",
                    use_cpu=self.device.type == "cpu",
                    remove_unused_columns=False,
                    report_to="none",
                    save_strategy="no",
                    disable_tqdm=True,
                )
                host = Trainer(
                    self.model(classes),
                    args,
                    train_dataset=[{"row": i} for i in range(len(texts))],  # type: ignore[arg-type]
                    data_collator=collate,
                )
                host.remove_callback(PrinterCallback)
                torch.backends.cuda.enable_cudnn_sdp(True)  # as it is for users
                attached = finesieve.attach(host) if how == "attached" else None
                begin = time.perf_counter()
                host.train()
                wait(self.device)
                torch.backends.cuda.enable_cudnn_sdp(False)
                told[how] = {
                    "seconds": time.perf_counter() - begin,
                    "steps": host.state.global_step,
                }
                if attached is not None:
                    told[how] |= {"figures": attached.figures(), "moves": attached.sieve.moves}
                loop = Loop(host.model, self.device, self.precision)
                told[how] |= quality(loop, evaluated, classes)
        return told

    # ---- e

    def half(self, name: str) -> Record:
        """Trains in fp16 with a gradient scaler, gates closed from a tenth of the stream on."""
        texts, evaluated, classes = self.read(name)
        texts = texts.some(self.scale.examples or 12_800)
        precision = "fp32" if self.device.type == "cpu" else "fp16"
        loop = Loop(self.model(classes), self.device, precision)
        told = trained(loop, texts, 32, 0, finesieve.Manual({2: 0.1}, train=0.3))
        return {**told, **quality(loop, evaluated, classes), "precision": precision}

    def single(self) -> Record:
        """Measures what scoring costs in bf16 and in float32, beside training in float32."""
        name = "2x32" if self.scale.small else "12x768"
        longest, told = self.scale.lengths[min(1, len(self.scale.lengths) - 1)], Record()
        texts = shape(32, longest, 8 * self.scale.pools)
        for how in ("training", "auto"):
            model: Any = encoder(name)
            loop = Loop(model, self.device, "fp32")
            told[how] = trained(
                loop, texts.modulo(model.config.vocab_size), 32, 0,
                finesieve.Manual({2: 0.25}, train=0.25),
                head_start=0, options={"scoring_precision": how},
            )  # fmt: skip
        return {"model": name, "longest": longest, **told}

    def causal(self) -> Record:
        """Trains a causal model on batches of one long text, plain and with gates closed."""
        scale, told = self.scale, Record()
        texts = shape(1, scale.longest, 60 if scale.small else 600).modulo(scale.words)
        for how, method in (
            ("plain", None),
            ("finesieve", finesieve.Manual({2: 0.1}, train=0.3)),
        ):
            model = causal(*scale.causal, scale.words, scale.longest)
            loop = Loop(model, self.device, self.precision, head=finesieve.heads.Tokens())
            targets = _predicting(texts)
            told[how] = trained(loop, targets, 1, 0, method)
        return told


class _Predicting(Texts):
    """Texts that are their own targets."""

    def batch(self, rows: Any) -> Batch:
        batch = Texts.batch(self, rows)
        words = batch["input_ids"]
        return {**batch, "labels": words.masked_fill(batch["attention_mask"] == 0, -100)}


def _predicting(texts: Texts) -> Texts:
    return _Predicting(texts.tokens, texts.starts, texts.labels)


# ---- in words


def say_open(record: Record) -> str:
    """Puts the ratio of open gates to a plain loop into words."""
    fits = "as wanted" if record["ratio"] <= 1.02 else "MORE than the 1.02 that are wanted"
    return (
        f"With open gates a step takes {record['ratio']:.3f} of a plain loop's "
        f"{1e3 * record['plain_seconds']:.2f} ms: {fits}."
    )


def say_price(record: Record) -> str:
    """Puts a price of scoring, by the sieve and from outside, into words."""
    off = record["sieve"] / record["outside"] - 1
    fits = "as wanted" if abs(off) <= 0.15 else "MORE than the 15 % that are wanted"
    return (
        f"{record['model']}, batches of {record['batch']}, up to {record['longest']} tokens"
        f"{', compiled' if record['compiled'] else ''}: scoring costs {record['outside']:.3f} of "
        f"training; the sieve says {record['sieve']:.3f}, {100 * off:+.0f} %: {fits}."
    )


def say_run(key: str, how: str, record: Record) -> str:
    """Puts a training's time and quality into words."""
    what = {"plain": "plain", "full": "full + head start", "random": "random at its time"}
    some = "" if "trained" not in record else f", trained on {record['trained']:,}"
    peak = f", {record['peak_bytes'] / 2**30:.2f} GiB" if "peak_bytes" in record else ""
    return (
        f"{key} {what.get(how, how)}: {record['seconds']:.1f} s, {record['steps']} steps{some}; "
        f"accuracy {record['accuracy']:.4f}, macro-F1 {record['macro_f1']:.4f}, "
        f"loss {record['loss']:.4f}{peak}."
    )


def say_trainer(record: Record) -> str:
    """Puts the Trainer's two runs into words."""
    a, b = record["plain"], record["attached"]
    return (
        f"Trainer with its defaults on {record['set']}: {a['seconds']:.1f} s plain, "
        f"{b['seconds']:.1f} s attached ({b['seconds'] / a['seconds']:.2f}); accuracy "
        f"{a['accuracy']:.4f} and {b['accuracy']:.4f}, loss {a['loss']:.4f} and {b['loss']:.4f}."
    )


def say_half(record: Record) -> str:
    """Puts the run with a gradient scaler into words."""
    fits = "finite" if np.isfinite(record["loss"]) else "NOT FINITE"
    return (
        f"{record['precision']} with a gradient scaler, gates closed by hand: {fits}, accuracy "
        f"{record['accuracy']:.4f}, loss {record['loss']:.4f}."
    )


def say_single(record: Record) -> str:
    """Puts the costs of scoring beside training in float32 into words."""
    same, bf16 = (record[how]["costs"][0] for how in ("training", "auto"))
    return (
        f"{record['model']}, up to {record['longest']} tokens, trained in float32: scoring costs "
        f"{same:.3f} of training in float32 and {bf16:.3f} by default."
    )


def say_causal(record: Record) -> str:
    """Puts the causal model's seconds and memory into words."""
    a, b = record["plain"], record["finesieve"]
    memory = ""
    if "peak_bytes" in a:
        memory = f"; memory {b['peak_bytes'] / a['peak_bytes']:.2f} of plain training's"
    return (
        f"Causal model, batches of one text, three tenths kept: {b['seconds'] / a['seconds']:.2f} "
        f"of plain training's {a['seconds']:.1f} s{memory}."
    )
