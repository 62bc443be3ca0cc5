"""One training run, from a configuration to a fine-tuned model and its records."""

from __future__ import annotations

import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from finesieve import __version__, methods
from finesieve.batches.carry import inputs
from finesieve.cli.config import Config
from finesieve.cli.results import pack_examples
from finesieve.cli.training.batches import EXAMPLE, Examples, Loader, by_length
from finesieve.cli.training.models import (
    check_length,
    load_model,
    matrix_parameters,
    pick_attention,
    pick_device,
)
from finesieve.cli.training.prepare import Prepared, prepare
from finesieve.cli.training.progress import Live, rounded, snapshot, why_open
from finesieve.cli.training.runfiles import ExampleLog, RunFolder
from finesieve.costs.clock import TrainingClock
from finesieve.errors import ConfigError, ScoreError, StateError
from finesieve.gates.simple import Open
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.head_start import default_examples
from finesieve.scoring.scorers import Classification
from finesieve.sieve.schedule import StreamSchedule
from finesieve.sieve.sieve import Sieve

POINTS = 50  # of the curve that a summary holds


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """A signal came; the checkpoint is written. `signal` is its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signum


def versions() -> dict[str, str]:
    return {
        "finesieve": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def hardware(device: torch.device) -> dict[str, Any]:
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def evaluate(
    model: nn.Module, examples: Examples, device: torch.device
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Cross-entropy loss float64[n] and whether right, bool[n]; in eval mode, full precision."""
    model.eval()
    loss, right = np.empty(len(examples)), np.empty(len(examples), dtype=bool)
    with torch.inference_mode():
        for index, batch in by_length(examples, 128):
            given = {k: v.to(device) for k, v in batch.items()}
            labels = given.pop("labels")
            logits = model(**given).logits.float()
            loss[index] = F.cross_entropy(logits, labels, reduction="none").cpu().numpy()
            right[index] = (logits.argmax(-1) == labels).cpu().numpy()
    return loss, right


def linear_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Up over the first `warmup` share, then down to zero."""
    rise = int(warmup * steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return max(0.0, (steps - step) / max(1, steps - rise))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def told_of_head(event: Mapping[str, Any]) -> str:
    """A line for the terminal about the head start."""
    if not event["fitted"]:
        return f"the head is left as it is: {event['reason']}"
    return (
        f"head fitted to {event['examples']} examples: held-out loss {event['before']:.3f} -> "
        f"{event['after']:.3f}"
    )


class Run:
    """The training loop around a sieve; interruptible and resumable between any two steps."""

    def __init__(self, config: Config, data: Prepared, folder: RunFolder | None, live: Live):
        self.config, self.data, self.folder, self.live = config, data, folder, live
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        if config.clock == "processor" and self.device.type != "cpu":
            raise ConfigError(
                f"clock is 'processor', which does not see what {self.device} does: use 'wall'"
            )
        self.clock = TrainingClock(self._clock)
        model = self._load(config.seed)
        check_length(data.tokenizer, model, config.max_length)
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
        self.sieve = Sieve.of_host(
            Classification(self.model, autocast=self.autocast, prefix=self.prefix),
            method,
            total=self.total,
            batch_size=config.survivor_batch_size,
            pad_values={"input_ids": data.tokenizer.pad_token_id},
            id_key=EXAMPLE,
            head_start=self._head_start(len(order) * config.epochs),
            seed=config.seed,
            clock=self.clock,
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
        self._stop: int | None = None

    def _load(self, seed: int) -> Any:
        c = self.config
        attention = pick_attention(c, self.device)
        return load_model(c.model, self.data.labels, seed, c.freeze, c.dropout, attention, c.lora)

    def _head_start(self, drawn: int) -> int:
        """Every method has one, of the same size: a random subset's does not shrink with it."""
        given = self.config.head_start
        return default_examples(drawn) if given is None else given

    def _clock(self) -> float:
        if self.config.clock == "processor":
            return time.process_time()
        if self.device.type == "cuda":  # the device runs ahead: wait for it
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _listen(self, event: dict[str, Any]) -> None:
        if event["event"] == "stage":
            self.live.say(f"stage {event['stage']}: {event['reason']}")
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
        """All epochs; raises `Interrupted` after writing a checkpoint if a signal comes."""
        self.model.train()
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        last_log = last_checkpoint = start = self.clock()
        before, cpu = self.elapsed, time.process_time() - self.cpu
        try:
            if self.holdout is not None and before == 0:
                self._refer()
            for epoch in range(self.sieve.passes, self.config.epochs):
                self.log.epoch = epoch
                for batch in self.sieve(self._loader(epoch)):
                    self._step(batch)
                    now = self.clock()
                    self.elapsed = before + now - start
                    self.cpu = time.process_time() - cpu
                    self.live.show(self.sieve, self.total, self.elapsed)
                    if self.sieve.progress >= (len(self.curve) + 1) / POINTS:
                        self.curve.append(snapshot(self.sieve, self.total, self.elapsed))
                    if self.folder is None:
                        continue
                    if now - last_log > 5:
                        last_log = now
                        state = snapshot(self.sieve, self.total, self.elapsed)
                        self.folder.log({"event": "progress", **state})
                    if self._stop is not None or now - last_checkpoint > checkpoint_every:
                        # Saving is no part of the run's time, nor of the step it comes after.
                        self.clock.pause()
                        self.save()
                        self.clock.go_on()
                        last_checkpoint = now
                        if self._stop is not None:
                            raise Interrupted(self._stop)
                self.elapsed = before + self.clock() - start
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.live.close()

    def _loader(self, epoch: int) -> Loader:
        c, some = self.config, self.some
        if self.subset is not None:
            dice = np.random.default_rng([c.seed, 80, epoch])
            some = dice.permutation(len(self.data.train))[: self.subset]
        return Loader(self.data.train, c.batch_size, c.seed, epoch, some)

    def _refer(self) -> None:
        """Train the method's reference model on the holdout and hand its losses to the method's
        backward gate. All of it is booked: as training, and as scoring."""
        ledger, c = self.sieve.ledger, self.config
        assert self.holdout is not None
        assert self.some is not None
        self.live.say(f"training a reference model on {len(self.holdout)} held-out examples")
        with ledger.spending("train"):
            model = self._load(c.seed + 1)
            model.to(self.device).train()
            parameters = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(
                parameters, lr=c.lr, weight_decay=c.weight_decay, fused=True
            )
            loader = Loader(self.data.train, c.batch_size, c.seed, 0, self.holdout)
            schedule = linear_schedule(optimizer, len(loader), c.warmup)
            for batch in loader:
                mean = self._losses(model, batch).mean()
                mean.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        with ledger.spending("score"):
            model.eval()
            with torch.inference_mode():
                for index, batch in by_length(self.data.train, 128, self.some):
                    loss = self._losses(model, batch)
                    self.method.backward.refer(index, loss.cpu().numpy())  # type: ignore[attr-defined]

    def _losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Cross-entropy float32[n], with gradient where there is one."""
        given = {k: v.to(self.device) for k, v in inputs(batch).items() if k != EXAMPLE}
        labels = given.pop("labels")
        shared = self.prefix.shared(batch) if self.prefix and model is self.model else nullcontext()
        with self.autocast(), shared:
            logits = model(**given).logits
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def _step(self, batch: Any) -> None:
        losses = self._losses(self.model, batch)
        self.sieve.loss(losses, batch).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.trainable, 1.0)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.schedule.step()
        else:  # one example's NaN has spread to the whole gradient: leave the weights alone
            self.skipped_steps += 1
        self.optimizer.zero_grad()
        self.steps += 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None or self.folder is None:  # a second one: at once
            raise KeyboardInterrupt
        self._stop = number
        self.live.say("stopping after this step ...")

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that takes it up."""
        return {**self.config.as_dict(), "training data": self.data.digest}

    def save(self) -> None:
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
                "elapsed": self.elapsed,
                "cpu": self.cpu,
                "rng": torch.get_rng_state(),
                "device_rng": torch.cuda.get_rng_state(self.device)
                if self.device.type == "cuda"
                else None,
            }
        )

    def resume(self) -> None:
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
        self.curve = state["curve"]
        self.elapsed, self.cpu = state["elapsed"], state["cpu"]
        torch.set_rng_state(state["rng"])
        if state["device_rng"] is not None:
            torch.cuda.set_rng_state(state["device_rng"], self.device)

    # ---- results

    def summary(self) -> dict[str, Any]:
        """What summary.json holds. The model is evaluated here, outside the books."""
        each = {
            name: evaluate(self.model, examples, self.device)
            for name, examples in self.data.evals.items()
        }
        sets = {
            name: {"accuracy": float(right.mean()), "loss": float(loss.mean()), "n": len(loss)}
            for name, (loss, right) in each.items()
        }
        loss, right = (np.concatenate(parts) for parts in zip(*each.values(), strict=True))
        pooled = {"accuracy": float(right.mean()), "loss": float(loss.mean())}
        if not np.isfinite(pooled["loss"]):
            raise ScoreError(
                "the trained model's loss on the evaluation data is not finite: the learning rate "
                "is probably too high, or the model's weights were damaged; nothing was written"
            )
        ledger, window = self.sieve.ledger, self.sieve.window
        drawn = {"drawn": ledger.examples.drawn}, {"drawn": ledger.tokens.drawn}
        if self.subset is not None:  # what was left out was drawn from, too
            epochs, lengths = self.config.epochs, self.data.train.lengths
            drawn = {"drawn": epochs * len(lengths)}, {"drawn": epochs * int(lengths.sum())}
        seconds = {k: round(v, 4) for k, v in ledger.seconds.items()}
        scored, trained = ledger.examples.scored, ledger.examples.yielded
        return {
            "method": self.config.method,
            "seed": self.config.seed,
            "examples": {
                **drawn[0],
                "scored": scored,
                "trained": trained,
                "kept_out": ledger.examples.bad,
            },
            "tokens": {
                **drawn[1],
                "scored": ledger.tokens.scored,
                "trained": ledger.tokens.yielded,
            },
            "seconds": {**seconds, "total": round(self.elapsed, 4)},
            "cpu_seconds": round(self.cpu, 4),
            "flops": ledger.flops(*matrix_parameters(self.model)),
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "subset": self.subset,
            "head_start": None
            if self.sieve.head_start is None
            else self.sieve.head_start.as_dict(),
            "reference_examples": 0 if self.holdout is None else len(self.holdout),
            "stages": self.sieve.moves,
            "predictor": {
                "auc": rounded(window.auc()),
                "calibration": rounded(window.calibration()),
                "concentration": rounded(window.concentration()),
            },
            "cost_ratio": self.sieve.cost_ratio,
            "costs_measured": {k: self.sieve.meter.relative(k) for k in ("score", "closed")},
            "eval": {**pooled, "n": len(loss)},
            "eval_sets": sets,
            "eval_examples": pack_examples(loss, right),  # in the order of `eval_sets`
            "curve": self.curve,
            "labels": [str(x) for x in self.data.labels],
            "versions": versions(),
            "hardware": hardware(self.device),
            "config": self.config.as_dict(),
            "data": self.data.source,
        }

    def finish(self) -> dict[str, Any]:
        """Evaluate, and write everything that the run leaves behind."""
        summary = self.summary()
        if self.folder:
            orders = [self._loader(epoch).order for epoch in range(self.config.epochs)]
            self.folder.write_examples(self.log.columns(self.data.rows, orders))
            self.folder.save_model(self.model, self.data.tokenizer)
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
) -> dict[str, Any]:
    """Run a configuration and return its summary; with `output` everything is written there."""
    folder = RunFolder(output, resume) if output is not None else None
    live = Live(label or config.method, quiet=quiet)
    # Built before the data is read: a bad setting should not cost the reading.
    method = methods.registry.build(config.method, config.seed, **config.settings)
    if data is None:
        data = prepare(config)
        for note in data.notes:  # also with `quiet`: they are no progress
            live.say(note) if not quiet else print(note, file=sys.stderr)
    run = Run(config, data, folder, live)
    if resume:
        run.resume()
        live.say(f"resumed at {run.sieve.progress:.0%} of the stream")
    else:
        torch.manual_seed(config.seed + 1)
        if folder:
            folder.log({"event": "start", "config": config.as_dict(), "versions": versions()})
            folder.log({"event": "stage", **run.sieve.moves[0]})
    run.train()
    if folder:
        run.save()  # what follows can be interrupted too; resuming then goes on from here
    open_throughout = len(run.sieve.moves) == 1 and run.sieve.stage == 1
    if method.scores and open_throughout and isinstance(method.opening, Open):
        why = why_open(run.sieve, method.stages)
        live.say(f"no time was saved: trained on everything, because {why}")
    return run.finish()
