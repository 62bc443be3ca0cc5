"""One training run, from a configuration to a fine-tuned model and its records."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finesieve import methods
from finesieve.batches.carry import inputs
from finesieve.cli.config import Config
from finesieve.cli.training.batches import EXAMPLE, Loader
from finesieve.cli.training.models import (
    check_length,
    load_model,
    pick_attention,
    pick_device,
    settled,
)
from finesieve.cli.training.prepare import Prepared, prepare
from finesieve.cli.training.progress import (
    Live,
    rounded,
    snapshot,
    told_of_end,
    told_of_head,
)
from finesieve.cli.training.reference import refer
from finesieve.cli.training.runfiles import ExampleLog, RunFolder
from finesieve.cli.training.schedule import linear_schedule
from finesieve.cli.training.summary import summary_of, versions
from finesieve.errors import ConfigError, StateError
from finesieve.insight.visits import Visits
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.head_start import default_examples
from finesieve.scoring.scorers import Task
from finesieve.sieve.schedule import StreamSchedule
from finesieve.sieve.sieve import Sieve

POINTS = 50  # of the curve that a summary holds
RECENT = 20  # batches over which the loss is averaged for it, fading


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """A signal came; the checkpoint is written. `signal` is its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signum


class Run:
    """The training loop around a sieve; interruptible and resumable between any two steps."""

    def __init__(
        self,
        config: Config,
        data: Prepared,
        folder: RunFolder | None,
        live: Live,
        visits: Visits | None = None,
    ):
        self.config, self.data, self.folder, self.live = config, data, folder, live
        self.visits = visits
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        if config.clock == "processor" and self.device.type != "cpu":
            raise ConfigError(
                f"clock is 'processor', which does not see what {self.device} does: use 'wall'"
            )
        self.clock = time.process_time if config.clock == "processor" else time.perf_counter
        self.head = data.task.head(data.targets)
        model = self.load(config.seed)
        check_length(model, config.max_length)
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = data.tokenizer.pad_token_id
        self.model = model.to(self.device)
        self.log = ExampleLog(len(data.train), config.epochs)
        self.method = method = methods.registry.build(config.method, config.seed, **config.settings)
        order = np.random.default_rng([config.seed, 79]).permutation(len(data.train))
        held = round(method.reference * len(order))
        self.holdout: npt.NDArray[np.int64] | None = order[:held] if held else None
        self.some: npt.NDArray[np.int64] | None = order[held:] if held else None
        # A random subset is drawn beforehand, anew for each epoch, and loaded as plain training is:
        # its batches are of one length without being taken apart, as cheap as they can be.
        self.subset: int | None = None
        if method.subset is not None:
            self.subset = max(1, round(method.subset * len(order)))
            method = methods.registry.build("full", config.seed)
        drawn = len(order) - held if self.subset is None else self.subset
        self.total = drawn * config.epochs
        if config.precision == "bf16":
            self.autocast: Callable[[], Any] = lambda: torch.autocast(
                self.device.type, torch.bfloat16
            )
        else:
            self.autocast = nullcontext
        # Frozen layers are run once an example, unless dropout makes each pass another one.
        shares = config.freeze > 0 and config.dropout == 0.0 and method.scores
        self.prefix = FrozenPrefix(self.model, config.freeze) if shares else None
        scorer = Task(self.model, self.head, self.autocast, prefix=self.prefix)
        if visits is not None:
            scorer = visits.scorer(self.model, autocast=self.autocast, prefix=self.prefix)
        self.sieve = Sieve.of_host(
            scorer,
            method,
            total=self.total,
            batch_size=config.survivor_batch_size,
            pad_values={"input_ids": data.tokenizer.pad_token_id},
            id_key=EXAMPLE,
            head_start=self._head_start(len(order) * config.epochs),
            seed=config.seed,
            clock=self.clock if config.clock == "processor" else None,
            listeners=[self.log, self._listen],
        )
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trainable, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        steps = -(-self.total // (config.batch_size * config.epochs)) * config.epochs
        shape = linear_schedule(self.optimizer, steps, config.warmup)
        self.schedule: Any = (
            StreamSchedule(shape, steps, lambda: self.sieve.progress)
            if method.schedule_by == "stream"
            else shape
        )
        self.steps = self.skipped_steps = 0
        self.cpu = 0.0  # processor seconds of this process: steadier than the clock if it is shared
        self.elapsed = 0.0  # seconds of earlier parts of this run, and of this one without saving
        self.curve: list[dict[str, Any]] = []  # where the run stood, every 2 % of the stream
        self.loss: torch.Tensor | None = None  # of the last batches, each an estimate of the mean
        self._stop: int | None = None

    def load(self, seed: int) -> Any:
        """Returns the model of the configuration; this seed is of its head's random weights."""
        c = self.config
        attention = pick_attention(c, self.device)
        layers = (c.freeze, c.dropout, attention, c.lora)
        data = self.data
        return load_model(
            c.model, data.labels, seed, *layers, data.scale, data.train.probe(), data.task
        )

    def _head_start(self, drawn: int) -> int:
        """Returns how many examples the head is fitted to: as many for every method, a random
        subset included."""
        given = self.config.head_start
        return default_examples(drawn) if given is None else given

    def _listen(self, event: dict[str, Any]) -> None:
        if event["event"] == "stage":
            self.live.say(
                f"stage {event['stage']} from example {event['from_example']:,} on: "
                f"{event['reason']}"
            )
            if self.folder:
                self.folder.log(event)
        elif event["event"] == "head_start":
            self.live.say(told_of_head(event))
            if self.folder:
                self.folder.log(event)
        elif event["event"] == "bad":
            self.live.say(f"{event['total']} examples with a loss that is NaN or infinite kept out")
            if self.folder:
                self.folder.log(event)

    # ---- the loop

    def train(self, checkpoint_every: float = 600.0) -> None:
        """Trains all epochs.

        Args:
            checkpoint_every: seconds between two checkpoints.

        Raises:
            Interrupted: after writing a checkpoint, if a signal comes.
        """
        self.model.train()
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        last_log = last_checkpoint = start = self.clock()
        before, cpu = self.elapsed, time.process_time() - self.cpu
        try:
            if self.holdout is not None and before == 0:
                refer(self)
            for epoch in range(self.sieve.passes, self.config.epochs):
                self.log.epoch = epoch
                for batch in self.sieve(self.loader(epoch)):
                    self._step(batch)
                    now = self.clock()
                    self.elapsed = before + now - start
                    self.cpu = time.process_time() - cpu
                    self.live.show(self.sieve, self.total, self.elapsed)
                    if self.sieve.progress >= (len(self.curve) + 1) / POINTS:
                        self.curve.append(self._stand())
                    if self.folder is None:
                        continue
                    if now - last_log > 5:
                        last_log = now
                        self.folder.log({"event": "progress", **self._stand()})
                    if self._stop is not None or now - last_checkpoint > checkpoint_every:
                        # Saving is no part of the run's time, nor of the step it comes after.
                        self.sieve.ledger.pause()
                        self.save()
                        last_checkpoint = self.clock()
                        start += last_checkpoint - now
                        if self._stop is not None:
                            raise Interrupted(self._stop)
                self.sieve.ledger.watch.read(wait=True)  # a GPU may still be at the last steps
                self.elapsed = before + self.clock() - start
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.live.close()

    def loader(self, epoch: int) -> Loader:
        """Returns the loader of an epoch, the same each time it is asked for."""
        c, some = self.config, self.some
        if self.subset is not None:
            dice = np.random.default_rng([c.seed, 80, epoch])
            some = dice.permutation(len(self.data.train))[: self.subset]
        return Loader(self.data.train, c.batch_size, c.seed, epoch, some)

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Returns the loss of each example, float32[n], with gradient where there is one."""
        given = {k: v.to(self.device) for k, v in inputs(batch).items() if k != EXAMPLE}
        labels = given.pop("labels")
        shared = self.prefix.shared(batch) if self.prefix and model is self.model else nullcontext()
        with self.autocast(), shared:
            logits = model(**given).logits
        return self.head.losses(logits, {"labels": labels})

    def _step(self, batch: Any) -> None:
        losses = self.losses(self.model, batch)
        if self.visits is not None:
            self.visits.note(batch[EXAMPLE].numpy())
        mean = self.sieve.loss(losses, batch)
        mean.backward()  # type: ignore[no-untyped-call]
        found = mean.detach()
        self.loss = found if self.loss is None else torch.lerp(self.loss, found, 1 / RECENT)
        norm = nn.utils.clip_grad_norm_(self.trainable, 1.0)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.schedule.step()
        else:  # one example's NaN has spread to the whole gradient: leave the weights alone
            self.skipped_steps += 1
        self.optimizer.zero_grad()
        self.steps += 1

    def _stand(self) -> dict[str, Any]:
        loss = None if self.loss is None else rounded(float(self.loss))
        return {**snapshot(self.sieve, self.total, self.elapsed), "train_loss": loss}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None or self.folder is None:  # a second one: at once
            raise KeyboardInterrupt
        self._stop = number
        self.live.say("stopping after this step ...")

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        """Returns what a checkpoint must have in common with the run that takes it up."""
        return {**self.config.as_dict(), "training data": self.data.digest}

    def save(self) -> None:
        """Writes a checkpoint."""
        assert self.folder is not None
        self.folder.save_checkpoint(
            {
                "config": json.dumps(self._identity()),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "sieve": self.sieve.state_dict(),
                "examples": self.log.state_dict(),
                "log_length": self.folder.log_length(),
                "steps": self.steps,
                "skipped_steps": self.skipped_steps,
                "curve": self.curve,
                "loss": self.loss,
                "elapsed": self.elapsed,
                "cpu": self.cpu,
                "rng": torch.get_rng_state(),
                "device_rng": torch.cuda.get_rng_state(self.device)
                if self.device.type == "cuda"
                else None,
            }
        )

    def resume(self) -> None:
        """Takes up the folder's checkpoint.

        Raises:
            StateError: if there is none that fits.
        """
        assert self.folder is not None
        state = self.folder.load_checkpoint(self._identity())
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.sieve.load_state_dict(state["sieve"])
            self.log.load_state_dict(state["examples"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateError(
                f"the checkpoint in {self.folder.path} does not fit this run: "
                f"{str(error).splitlines()[0]}"
            ) from None
        self.folder.trim_log(state["log_length"])
        self.steps, self.skipped_steps = state["steps"], state["skipped_steps"]
        self.curve, self.loss = state["curve"], state["loss"]
        self.elapsed, self.cpu = state["elapsed"], state["cpu"]
        torch.set_rng_state(state["rng"])
        if state["device_rng"] is not None:
            torch.cuda.set_rng_state(state["device_rng"], self.device)

    # ---- results

    def finish(self) -> dict[str, Any]:
        """Evaluate, and write everything that the run leaves behind."""
        summary = summary_of(self)
        if self.folder:
            orders = [self.loader(epoch).order for epoch in range(self.config.epochs)]
            self.folder.write_examples(self.log.columns(self.data.rows, orders))
            data = self.data
            self.folder.save_model(self.model, data.tokenizer, data.scale, data.train.probe())
            self.folder.log({"event": "end", **{k: summary[k] for k in ("seconds", "eval")}})
            self.folder.write_summary(summary)
            self.folder.drop_checkpoint()
        return summary


def train(
    config: Config,
    output: str | None,
    resume: bool = False,
    data: Prepared | None = None,
    quiet: bool = False,
    label: str | None = None,
    visits: Visits | None = None,
) -> dict[str, Any]:
    """Runs a configuration and returns its summary.

    Args:
        config: all settings.
        output: the folder that everything is written to; None writes nothing.
        resume: whether the interrupted run in it goes on.
        data: what is trained on, if it is prepared already.
        quiet: whether to show no progress.
        label: how to call the run on the terminal; the method's name by default.
        visits: keeps the features of the examples that are met. Such a run cannot be resumed, so no
            checkpoint is written at its end.

    Raises:
        Interrupted: after writing a checkpoint, if a signal comes.
        FinesieveError: for what is wrong with settings, data or a checkpoint.
    """
    config = settled(config)
    folder = RunFolder(output, resume) if output is not None else None
    live = Live(label or config.method, quiet=quiet)
    # Built before the data is read: a bad setting should not cost the reading.
    method = methods.registry.build(config.method, config.seed, **config.settings)
    if data is None:
        data = prepare(config)
        for note in data.notes:  # also with `quiet`: they are no progress
            live.say(note) if not quiet else print(note, file=sys.stderr)
    run = Run(config, data, folder, live, visits)
    if resume:
        run.resume()
        live.say(f"resumed at {run.sieve.progress:.0%} of the stream")
    else:
        torch.manual_seed(config.seed + 1)
        if folder:
            folder.log({"event": "start", "config": config.as_dict(), "versions": versions()})
            folder.log({"event": "stage", **run.sieve.moves[0]})
    run.train()
    if visits is not None:
        visits.end(run.loader(0).order)
    if folder and visits is None:
        run.save()  # what follows can be interrupted too; resuming then goes on from here
    for text in told_of_end(run.sieve, method):
        live.say(text)
    return run.finish()
