"""The golden runs under Hugging Face's Trainer, Accelerate and Lightning."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.golden import api, material
from tests.golden.compare import Record
from tests.golden.kit import SMALL, Log, by_hand_method, golden
from tests.golden.material import Bag

# ---- Hugging Face's Trainer

TRAINER = ("transformers", "accelerate")


def closed(**settings: Any) -> Any:
    """Return our method with stages that begin at 15 % and 40 % of the stream."""
    return by_hand_method(train=0.4, score=0.6, starts={2: 0.15, 3: 0.4}, **settings)


def _train_hf(
    log: Log,
    model: nn.Module,
    folder: str,
    stop: int | None = None,
    resume: str | None = None,
    n: int = 240,
    collate: Any = material.collate,
    options: Any = None,
    **args: Any,
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
        TrainingArguments(
            folder,
            **{
                "per_device_train_batch_size": 8,
                "num_train_epochs": 2,
                "learning_rate": 0.02,
                "gradient_accumulation_steps": 2,
                "warmup_steps": 3,
                "optim": "adamw_torch",
                "adam_epsilon": 1e-4,
                "max_grad_norm": 0.05,
                "seed": 7,
                "use_cpu": True,
                "save_strategy": "no",
                "report_to": [],
                "disable_tqdm": True,
                "logging_strategy": "no",
                "remove_unused_columns": False,
                **args,
            },
        ),
        data_collator=collate,
        train_dataset=material.examples(n),
        callbacks=[Stopping()] if stop else [],
    )
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
        sieve = _train_hf(
            log,
            model,
            folder,
            n=640,
            collate=material.collate_tokens,
            gradient_accumulation_steps=1,
            max_grad_norm=1e9,
            lr_scheduler_type="cosine",
        )
    return log.record(sieve, model)


@golden(stages=(1, 2, 3), weighted=True, hosts=TRAINER, version_of="transformers")
def trainer_prefix() -> Record:
    """The first of two layers is frozen; training takes its output from the scoring pass. Two
    batches a step, whose gradient is not clipped."""
    log, model = Log(), material.bert(layers=2)
    prefix = api.frozen_prefix(model, 1)
    with TemporaryDirectory() as folder:
        return log.record(
            _train_hf(log, model, folder, options={"prefix": prefix}, max_grad_norm=1e9), model
        )


# ---- Accelerate


def _train_accelerate(
    log: Log,
    first: int,
    folder: str,
    stop: int | None = None,
    resume: bool = False,
) -> tuple[Any, nn.Module]:
    """Train with Accelerate's loop, two batches a step; return the sieve and the model.

    first: number of the first parameters. stop: batches after which the state is saved and
    training ends. resume: whether to go on with that state.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Bag(first)
    optimizer = material.optimizer(model)
    loader = DataLoader(
        material.examples(280),
        8,
        shuffle=True,
        collate_fn=material.collate,
        generator=torch.Generator().manual_seed(4),
    )
    net, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    stream = api.filter_accelerate(accelerator, loader, net, closed(), 2, **SMALL)
    schedule = api.drive_accelerate(
        stream,
        torch.optim.lr_scheduler.LinearLR(
            optimizer.optimizer, 1.0, 0.0, total_iters=2 * -(-len(loader) // 2)
        ),
    )
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
    log: Log,
    first: int,
    folder: str,
    stop: int | None = None,
    resume: str | None = None,
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
                optimizer, 1.0, 0.0, total_iters=api.lightning_steps(callback)
            )
            return [optimizer], [api.lightning_schedule(callback, decay)]

    class Stopping(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == stop:
                trainer.save_checkpoint(Path(folder) / f"{stop}.ckpt")
                trainer.should_stop = True

    callback = api.lightning_callback(closed(), **SMALL)
    loader = DataLoader(
        material.examples(280),
        8,
        shuffle=True,
        collate_fn=material.collate,
        generator=torch.Generator().manual_seed(4),
    )
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[callback, Stopping()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    with warnings.catch_warnings():  # hints about workers, and Lightning's own use of PyTorch
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated")
        trainer.fit(
            module,
            api.wrap_lightning(callback, loader),
            ckpt_path=resume,
            **({"weights_only": True} if resume else {}),
        )
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
