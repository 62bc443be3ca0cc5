"""The golden runs: small trainings, each a function without arguments that returns its record.

Nothing in them depends on a clock (cost ratios are given), on dropout, or on the random state that
the process happens to be in. Each takes a second or two at most.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.golden import api, material
from tests.golden.compare import Record
from tests.golden.material import Bag

SMALL = {"pool": 32, "group": 2}


@dataclass(frozen=True)
class Golden:
    """A named run and what must be true of it, so that it is worth recording.

    function: makes the run. stages: those that it goes through, in order. weighted: whether some
    examples weigh more or less than 1. same_as: the run that was not interrupted, for one that was:
    their records are the same. hosts: packages that it needs. version_of: the one of them whose
    own arithmetic differs between major versions, so that the record is good for one of these only.
    """

    name: str
    function: Callable[[], Record]
    stages: tuple[int, ...]
    weighted: bool
    same_as: str | None
    hosts: tuple[str, ...]
    version_of: str | None

    def run(self) -> Record:
        """Make the run on one thread and from a fixed random state; leave both as they were."""
        with isolated():
            if "accelerate" in self.hosts:
                _forget_accelerate()
            try:
                return self.function()
            finally:
                if "accelerate" in self.hosts:
                    _forget_accelerate()


RUNS: dict[str, Golden] = {}


def golden(
    stages: tuple[int, ...], weighted: bool, same_as: str | None = None,
    hosts: tuple[str, ...] = (), version_of: str | None = None,
) -> Callable[[Callable[[], Record]], Callable[[], Record]]:
    """Enter a function among the golden runs, under its own name."""
    def enter(function: Callable[[], Record]) -> Callable[[], Record]:
        name = function.__name__.replace("_", "-")
        RUNS[name] = Golden(name, function, stages, weighted, same_as, hosts, version_of)
        return function
    return enter


@contextmanager
def isolated() -> Iterator[None]:
    """One thread and fixed random states inside; the process's own ones afterwards."""
    threads = torch.get_num_threads()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.set_num_threads(1)
    random.seed(11)
    np.random.seed(11)
    torch.manual_seed(11)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass
class Log:
    """What was trained on, batch by batch."""

    ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    weights: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def note(self, batch: Any) -> None:
        ids, weights = api.carried(batch)
        bare = api.bare(batch)
        tokens = bare[0] if isinstance(bare, tuple) else bare["input_ids"]
        self.shapes.append(tuple(tokens.shape))
        self.ids.append(ids)
        self.weights.append(weights)

    def __len__(self) -> int:
        return len(self.ids)

    def record(self, sieve: Any, model: nn.Module) -> Record:
        """Return the record of the run whose batches were noted here."""
        flat = [p.detach().float().reshape(-1) for p in model.parameters()]
        return Record(
            ids=np.concatenate(self.ids).astype(np.int64),
            shapes=np.array(self.shapes, dtype=np.int64),
            weights=np.concatenate(self.weights).astype(np.float32),
            stages=np.array(api.stages(sieve), dtype=np.int64),
            counts=np.array(api.counts(sieve), dtype=np.int64),
            parameters=torch.cat(flat).numpy().copy(),
        )


# ---- plain loops


def by_hand_method(**settings: Any) -> Any:
    """Return our method with stages that begin at 10 % and 30 % of the stream."""
    return api.build_method("finesieve", 0, **{
        "predictor_bits": 10, "starts": {2: 0.1, 3: 0.3}, "cost_ratio": 0.2, **settings})


def automatic_method() -> Any:
    """Return our method with automatic stages that move early enough for a small run."""
    return api.build_method(
        "finesieve", 0, predictor_bits=10, cost_ratio=0.1, patience=48, window=256, recent=96,
        margin=0.02, audit=0.1)


class Loop:
    """A plain PyTorch loop over one or more passes.

    method: makes the method; it is called anew for each loop, since a method is never shared.
    data: pass -> its batches. passes: over the data. first: number of the model's first
    parameters. decay: whether the learning rate falls to 0, with the share of the data consumed.
    settings: of the sieve.
    """

    def __init__(
        self, method: Callable[[], Any], data: Callable[[int], list[Any]], passes: int = 1,
        first: int = 0, decay: bool = True, **settings: Any,
    ) -> None:
        self.data, self.passes, self.log = data, passes, Log()
        self.model = Bag(first)
        steps = passes * len(data(0))
        total = passes * sum(len(_labels(batch)) for batch in data(0))
        self.sieve = api.make_sieve(self.model, method(), **{**SMALL, "total": total, **settings})
        self.optimizer = material.optimizer(self.model)
        self.schedule = api.follow_stream(
            torch.optim.lr_scheduler.LinearLR(
                self.optimizer, 1.0, 0.0 if decay else 1.0, total_iters=steps),
            steps, self.sieve)

    def run(self, stop: int | None = None) -> Record:
        """Train to the end, or until `stop` batches have been trained on."""
        for index in range(api.passes(self.sieve), self.passes):
            for batch in api.filtered(self.sieve, self.data(index)):
                self.log.note(batch)
                bare = api.bare(batch)
                if isinstance(bare, dict):
                    given = {k: bare[k] for k in ("input_ids", "attention_mask")}
                    logits, labels = self.model(**given), bare["labels"]
                else:
                    *rest, labels = bare
                    logits = self.model(*rest)
                losses = F.cross_entropy(logits, labels, reduction="none")
                api.mean_loss(self.sieve, losses, batch).backward()
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
                if len(self.log) == stop:
                    return self.log.record(self.sieve, self.model)
        return self.log.record(self.sieve, self.model)

    def state(self) -> io.BytesIO:
        """Return the whole run as a file."""
        file = io.BytesIO()
        torch.save({
            "sieve": api.state_of(self.sieve), "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
        }, file)
        file.seek(0)
        return file

    def restore(self, file: io.BytesIO, log: Log) -> None:
        """Go on with the run of this file, whose batches so far are in `log`."""
        state = torch.load(file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        api.restore(self.sieve, state["sieve"])
        self.log = log


def _labels(batch: Any) -> Any:
    return batch["labels"] if isinstance(batch, dict) else batch[-1]


def _resumed(make: Callable[[int], Loop], *cuts: int) -> Record:
    """Interrupt a loop after each of these numbers of batches, and go on with fresh objects.

    make: returns a fresh loop whose model has the first parameters of this number.
    """
    loop = make(0)
    for cut in cuts:
        loop.run(stop=cut)
        fresh = make(cut)  # other first parameters: all have to come from the file
        fresh.restore(loop.state(), loop.log)
        loop = fresh
    return loop.run()


def _one_order(n: int, seed: int = 0, **more: Any) -> Callable[[int], list[Any]]:
    rows = material.examples(n, seed, **more)
    return lambda index: material.batches(rows)


def _shuffled(n: int, collate: Any = material.collate) -> Callable[[int], list[Any]]:
    """The same examples in each pass, in another order each time."""
    rows = material.examples(n)
    return lambda index: material.batches(rows, 100 + index, collate)


def _automatic(first: int = 0) -> Loop:
    """Labels are noise in a part of the stream: the gates close, open there, and close again."""
    return Loop(automatic_method, _one_order(1600, noise=(600, 1000)), first=first,
                decay=False)


@golden(stages=(1, 2, 3, 1, 2, 3), weighted=True)
def automatic() -> Record:
    return _automatic().run()


@golden(stages=(1, 2, 3, 1, 2, 3), weighted=True, same_as="automatic")
def automatic_resumed() -> Record:
    """In stages 1, 2 and 3, with survivors waiting, and after the gates have opened again."""
    return _resumed(_automatic, 7, 27, 50, 96)


@golden(stages=(1, 2, 3), weighted=True)
def by_hand() -> Record:
    return Loop(by_hand_method, _one_order(600)).run()


def _epochs(first: int = 0) -> Loop:
    return Loop(by_hand_method, _shuffled(280), passes=3, first=first)


@golden(stages=(1, 2, 3), weighted=True)
def epochs() -> Record:
    return _epochs().run()


@golden(stages=(1, 2, 3), weighted=True, same_as="epochs")
def epochs_resumed() -> Record:
    """In the middle of the first pass, and in the middle of the second."""
    return _resumed(_epochs, 17, 53)


@golden(stages=(1, 3, 1), weighted=True)
def budget() -> Record:
    """Where labels are noise, choosing is no better than chance, and the gates open again."""
    return Loop(lambda: api.build_method(
        "finesieve", 0, predictor_bits=10, budget=0.4, cost_ratio=0.05, patience=48, window=96,
        margin=0.02, audit=0.05), _one_order(1600, noise=(600, 1200)), decay=False).run()


@golden(stages=(1, 2, 3), weighted=False)
def paper() -> Record:
    return Loop(lambda: api.build_method("paper", 0, vocabulary=64, window=64),
                _one_order(640)).run()


@golden(stages=(1, 2, 3), weighted=False)
def authors() -> Record:
    return Loop(lambda: api.build_method("authors", 0, vocabulary=64, window=64),
                _one_order(400)).run()


@golden(stages=(3,), weighted=False)
def random_share() -> Record:
    return Loop(lambda: api.build_method("random", 0, share=0.3), _shuffled(320), passes=2).run()


@golden(stages=(1,), weighted=False)
def full() -> Record:
    return Loop(lambda: api.build_method("full", 0), _one_order(400)).run()


@golden(stages=(1, 2), weighted=False)
def selective_backprop() -> Record:
    return Loop(lambda: api.build_method("selective-backprop", 0, window=128),
                _one_order(640)).run()


@golden(stages=(1, 2), weighted=False)
def top_loss() -> Record:
    return Loop(lambda: api.build_method("top-loss", 0), _one_order(480)).run()


@golden(stages=(1, 2), weighted=False)
def quantile() -> Record:
    return Loop(lambda: api.build_method("quantile", 0), _one_order(480)).run()


@golden(stages=(1, 2), weighted=True)
def loss_sampling() -> Record:
    return Loop(lambda: api.build_method("loss-sampling", 0), _one_order(480)).run()


@golden(stages=(3, 1), weighted=True)
def infobatch() -> Record:
    """Examples are known again by an id of their own."""
    return Loop(lambda: api.build_method("infobatch", 0),
                _shuffled(240, material.collate_own), passes=3, id_key="own").run()


@golden(stages=(1, 2), weighted=False)
def rho_loss() -> Record:
    """The reference model's losses stand in a table: no second model is trained."""
    def method() -> Any:
        made = api.build_method("rho-loss", 0)
        losses = np.random.RandomState(3).rand(480).astype(np.float32)
        api.refer(made, np.arange(480), losses)
        return made
    return Loop(method, _one_order(480)).run()


@golden(stages=(1, 2, 3), weighted=True)
def tuples() -> Record:
    """Batches are tuples; their column of token ids, for the predictor, is the first."""
    rows = material.examples(480)

    def data(index: int) -> list[Any]:
        made = material.batches(rows)
        return [tuple(b[k] for k in ("input_ids", "attention_mask", "labels")) for b in made]

    features = api.token_features(0, 2, 1)
    return Loop(by_hand_method, data, features=features, pad_values={0: 0, 1: 0}).run()


@golden(stages=(1, 2, 3), weighted=True)
def fixed_lengths() -> Record:
    """Batches come in two lengths only; survivors a batch, scoring batch and seeds are set."""
    return Loop(lambda: by_hand_method(systematic=True, train=0.3, score=0.6), _one_order(480),
                lengths=[6, 12], batch_size=6, scoring_batch=16, seed=5).run()


# ---- Hugging Face's Trainer

TRAINER = ("transformers", "accelerate")


def _forget_accelerate() -> None:
    """Forget what a Trainer or an Accelerator of this process has set for all later ones."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def closed(**settings: Any) -> Any:
    """Return our method with stages that begin at 15 % and 40 % of the stream."""
    return by_hand_method(train=0.4, score=0.6, starts={2: 0.15, 3: 0.4}, **settings)


def _train_hf(
    log: Log, model: nn.Module, folder: str, stop: int | None = None, resume: str | None = None,
    n: int = 240, collate: Any = material.collate, options: Any = None, **args: Any,
) -> Any:
    """Train with a Trainer, and return its sieve.

    stop: step after which a checkpoint is saved and training ends. resume: a checkpoint's folder.
    n: number of examples. options: further ones of `attach_trainer`. args: further settings of the
    Trainer.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Noting(Trainer):
        def training_step(self, net: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            log.note(inputs)
            return super().training_step(net, inputs, *rest, **more)

    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
            control.should_save = control.should_training_stop = state.global_step == stop
            return control

    trainer = Noting(
        model,
        TrainingArguments(folder, **{
            "per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 0.02,
            "gradient_accumulation_steps": 2, "warmup_steps": 3, "optim": "adamw_torch",
            "adam_epsilon": 1e-4, "max_grad_norm": 0.05, "seed": 7, "use_cpu": True,
            "save_strategy": "no", "report_to": [], "disable_tqdm": True, "logging_strategy": "no",
            "remove_unused_columns": False, **args}),
        data_collator=collate, train_dataset=material.examples(n),
        callbacks=[Stopping()] if stop else [])
    trainer.remove_callback(PrinterCallback)
    attached = api.attach_trainer(trainer, closed(), **{**SMALL, **(options or {})})
    trainer.train(resume_from_checkpoint=resume)
    return api.sieve_of(attached)


@golden(stages=(1, 2, 3), weighted=True, hosts=TRAINER)
def trainer() -> Record:
    """Two batches a step. Transformers 4 and 5 scale such a step's gradient differently. It is
    clipped each time, so that this makes no difference; the next two runs would notice a scale."""
    log, model = Log(), material.bert()
    with TemporaryDirectory() as folder:
        return log.record(_train_hf(log, model, folder), model)


@golden(stages=(1, 2, 3), weighted=True, same_as="trainer", hosts=TRAINER)
def trainer_resumed() -> Record:
    """From a checkpoint in the middle of the first pass, and from one of the second."""
    log, resume = Log(), None
    with TemporaryDirectory() as folder:
        for stop in (8, 17, None):
            # Other parameters, which the checkpoint's replace.
            model = material.bert(0 if resume is None else 9)
            sieve = _train_hf(log, model, folder, stop, resume)
            resume = str(Path(folder) / f"checkpoint-{stop}")
    return log.record(sieve, model)


@golden(stages=(1, 2, 3), weighted=True, hosts=TRAINER)
def trainer_tokens() -> Record:
    """A label for every token: examples differ in how many targets they have. How many they have on
    average is measured on the first 1024. One batch a step, whose gradient is not clipped."""
    log, model = Log(), material.bert(tokens=True)
    with TemporaryDirectory() as folder:
        sieve = _train_hf(log, model, folder, n=640, collate=material.collate_tokens,
                          gradient_accumulation_steps=1, max_grad_norm=1e9,
                          lr_scheduler_type="cosine")
    return log.record(sieve, model)


@golden(stages=(1, 2, 3), weighted=True, hosts=TRAINER, version_of="transformers")
def trainer_prefix() -> Record:
    """The first of two layers is frozen; training takes its output from the scoring pass. Two
    batches a step, whose gradient is not clipped."""
    log, model = Log(), material.bert(layers=2)
    prefix = api.frozen_prefix(model, 1)
    with TemporaryDirectory() as folder:
        return log.record(_train_hf(log, model, folder, options={"prefix": prefix},
                                    max_grad_norm=1e9), model)


# ---- Accelerate


def _train_accelerate(
    log: Log, first: int, folder: str, stop: int | None = None, resume: bool = False,
) -> tuple[Any, nn.Module]:
    """Train with Accelerate's loop, two batches a step; return the sieve and the model.

    first: number of the first parameters. stop: batches after which the state is saved and
    training ends. resume: whether to go on with that state.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Bag(first)
    optimizer = material.optimizer(model)
    loader = DataLoader(material.examples(280), 8, shuffle=True, collate_fn=material.collate,
                        generator=torch.Generator().manual_seed(4))
    net, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    stream = api.filter_accelerate(accelerator, loader, net, closed(), 2, **SMALL)
    schedule = api.drive_accelerate(stream, torch.optim.lr_scheduler.LinearLR(
        optimizer.optimizer, 1.0, 0.0, total_iters=2 * -(-len(loader) // 2)))
    if resume:
        accelerator.load_state(folder)
    for _ in range(api.passes(stream), 2):
        for batch in stream:
            log.note(batch)
            with accelerator.accumulate(net):
                bare = api.bare(batch)
                labels = bare.pop("labels")
                losses = F.cross_entropy(net(**bare), labels, reduction="none")
                accelerator.backward(api.mean_loss(stream, losses, batch))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if len(log) == stop:
                accelerator.save_state(folder)
                return api.sieve_of(stream), model
    return api.sieve_of(stream), model


@golden(stages=(1, 2, 3), weighted=True, hosts=("accelerate",))
def accelerate() -> Record:
    log = Log()
    with TemporaryDirectory() as folder:
        return log.record(*_train_accelerate(log, 0, folder))


@golden(stages=(1, 2, 3), weighted=True, same_as="accelerate", hosts=("accelerate",))
def accelerate_resumed() -> Record:
    """Interrupted once, in the middle of the first pass and between two optimizer steps."""
    log = Log()
    with TemporaryDirectory() as folder:
        _train_accelerate(log, 0, folder, stop=12)
        return log.record(*_train_accelerate(log, 9, folder, resume=True))


# ---- Lightning


def _train_lightning(
    log: Log, first: int, folder: str, stop: int | None = None, resume: str | None = None,
) -> tuple[Any, nn.Module]:
    """Train with Lightning's Trainer; return the sieve and the model.

    stop: step after which a checkpoint is saved and training ends. resume: a checkpoint.
    """
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.bag = Bag(first)

        def forward(self, **given: Any) -> Any:
            return self.bag(**given)

        def training_step(self, batch: Any, index: int) -> Any:
            log.note(batch)
            bare = api.bare(batch)
            labels = bare.pop("labels")
            losses = F.cross_entropy(self(**bare), labels, reduction="none")
            return api.mean_loss(callback, losses, batch)

        def configure_optimizers(self) -> Any:
            optimizer = material.optimizer(self)
            decay = torch.optim.lr_scheduler.LinearLR(
                optimizer, 1.0, 0.0, total_iters=api.lightning_steps(callback))
            return [optimizer], [api.lightning_schedule(callback, decay)]

    class Stopping(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == stop:
                trainer.save_checkpoint(Path(folder) / f"{stop}.ckpt")
                trainer.should_stop = True

    callback = api.lightning_callback(closed(), **SMALL)
    loader = DataLoader(material.examples(280), 8, shuffle=True, collate_fn=material.collate,
                        generator=torch.Generator().manual_seed(4))
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[callback, Stopping()], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=folder)
    with warnings.catch_warnings():  # hints about workers, and Lightning's own use of PyTorch
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated")
        trainer.fit(module, api.wrap_lightning(callback, loader), ckpt_path=resume,
                    **({"weights_only": True} if resume else {}))
    return api.sieve_of(callback), module


@golden(stages=(1, 2, 3), weighted=True, hosts=("lightning",))
def lightning() -> Record:
    log = Log()
    with TemporaryDirectory() as folder:
        return log.record(*_train_lightning(log, 0, folder))


@golden(stages=(1, 2, 3), weighted=True, same_as="lightning", hosts=("lightning",))
def lightning_resumed() -> Record:
    """Interrupted once, in the middle of the first pass, when a batch was read ahead."""
    log = Log()
    with TemporaryDirectory() as folder:
        _train_lightning(log, 0, folder, stop=12)
        return log.record(*_train_lightning(log, 9, folder, resume=f"{folder}/12.ckpt"))
