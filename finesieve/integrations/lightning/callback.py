"""Lightning's Trainer: a callback that wraps the train loader.

Only Lightning's public hooks are used. Evaluation is never filtered. Fabric needs nothing from
here: its loop is the user's own, see `docs/how-to/lightning.md`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

try:
    from lightning.pytorch import Callback
except ImportError as error:
    from finesieve.errors import install

    raise ImportError(
        f"finesieve.integrations.lightning needs {error.name}: {install('lightning')}"
    ) from None

from finesieve.batches.carry import rides
from finesieve.errors import ConfigError, StateError
from finesieve.gates.features import FeatureFunction
from finesieve.integrations.common import TWICE, Driven, Handle, check_method
from finesieve.integrations.lightning.checks import check, check_sampler, not_wrapped
from finesieve.integrations.lightning.leaving import Leaving
from finesieve.integrations.lightning.lengths import passes_of, steps_of, total_of
from finesieve.integrations.lightning.order import generator_of
from finesieve.integrations.lightning.prepared import preparing
from finesieve.integrations.lightning.stream import Filtered, Stream
from finesieve.integrations.lightning.watch import LossWatch
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe
from finesieve.methods.registry import method_of
from finesieve.scoring import heads
from finesieve.scoring.protocol import Scorer, check_losses
from finesieve.scoring.scorers import SIZE_ALONE, PerExample, SizeFunction, Task
from finesieve.sieve.options import Listener
from finesieve.sieve.ranks import Alone, Ranks
from finesieve.sieve.sieve import Sieve

__all__ = ["SieveCallback"]
LossFunction = Callable[[nn.Module, Any], Tensor]


class SieveCallback(Handle, Callback):
    """Filter what a Lightning module trains on.

        module.sieved = SieveCallback(head=heads.SingleLabel())
        trainer = Trainer(callbacks=[module.sieved])
        trainer.fit(module, module.sieved(loader))

    and in `training_step`: `return self.sieved.loss(losses, batch)`, with one loss an example.

    An epoch is one pass over the data, of fewer steps than plain training's. With `max_steps`, or a
    number as `limit_train_batches`, as many batches are trained on as told, over as much data as
    that takes.

    Args:
        method: a recipe, its name, or a `Method`; `Full()` leaves all as it is.
        head: the task, where `module(**batch without targets)` gives what the head expects.
        losses: for anything else: a function (module, batch) -> loss per example, float[n]. It runs
            in the scoring pass, too, so it must not call `self.log`.
        size: beside `losses`, the size of the gradient that goes with a loss, float[n] -> float[n];
            the loss itself by default (see `scores.PerExample`).
        features: what the predictor looks at; the head's own by default.
        options: further settings of `Sieve`. Its `total` follows from `max_epochs` and the loader.

    Raises:
        ConfigError: for what cannot be served rightly, with the setting to change.
    """

    def __init__(
        self,
        method: Recipe | Method | str | None = None,
        *,
        head: heads.Head | None = None,
        losses: LossFunction | None = None,
        size: SizeFunction | None = None,
        features: FeatureFunction | None = None,
        listeners: Sequence[Listener] = (),
        **options: Any,
    ) -> None:
        made = method_of(method, 0)
        check_method(made, options, "a SieveCallback")
        self.filters = made.filters
        self._wants_losses = made.scores or made.learns
        if made.scores and (head is None) == (losses is None):
            raise ConfigError(
                f"method {made.name!r} scores examples: give either head=, one of "
                "finesieve.heads, or losses=, a function (module, batch) -> loss per example"
            )
        if size is not None and losses is None:
            raise ConfigError(SIZE_ALONE)
        self._method, self._head, self._losses, self._size = method, head, losses, size
        self._features, self._listeners = features, listeners
        self._given: int | None = options.pop("total", None)
        self._options = options
        self.sieve: Sieve | None = None  # of the training under way or done last
        self._trainer: Any = None
        self._put_into: Any = None  # the trainer that `attach` was given: known before training
        self._module: Any = None
        self._loader: Any = None
        self._leaving = Leaving(self)
        self._begin()

    def _begin(self) -> None:
        self.sieve = None
        self._stream = Stream()
        self._watch = LossWatch()
        self._saved: Mapping[str, Any] | None = None

    # ---- for the user's script

    def __call__(self, loader: Any) -> Any:
        """Returns the train loader, filtered: for `trainer.fit`, or for `train_dataloader` to
        return."""
        self._loader = loader
        return Filtered(self.batches, loader) if self.filters else loader

    def loss(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """Returns the weighted mean of the losses, a scalar for `training_step` to return; in
        evaluation the plain mean.

        Args:
            losses, batch, sizes: as in `Sieve.loss`.

        Raises:
            ScoreError: if these are not losses, one for each example.
            ConfigError: if the train loader does not go through the sieve.
        """
        away = not self.filters or self._leaving.left or self._trainer is None
        if away or not self._trainer.training:
            return check_losses(losses, losses.numel(), "the step").mean()
        if self.sieve is None:
            raise not_wrapped()
        loss = self.sieve.loss(losses, batch, sizes)
        return self._watch.give(loss) if rides(batch) else loss

    def reduce(self, losses: Tensor, batch: Any, sizes: Tensor | None = None) -> Tensor:
        """Returns what `loss` does: its name of version 0.1."""
        warnings.warn(
            "SieveCallback.reduce goes with version 0.3: use SieveCallback.loss",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.loss(losses, batch, sizes)

    def detach(self) -> None:
        """Filters no more: from the next pass on batches come as the loader has them.

        The callback leaves the trainer: at once, or when the training under way ends. Until then
        it keeps the place in the data, by which the learning rate and checkpoints go.
        """
        if self.sieve is not None:
            self.sieve.detach()
        self._leaving.asked(self._trainers())

    def _trainers(self) -> list[Any]:
        return [t for t in (self._trainer, self._put_into) if t is not None]

    @property
    def steps(self) -> int:
        """Optimizer steps of plain training: what a schedule is to be built for."""
        return steps_of(self._asked(), self._loader, self.filters)

    @property
    def progress(self) -> float:
        """Share of the stream consumed by the batches trained on, 0 to 1."""
        self._asked()
        if self._total() is None:
            raise ConfigError("progress needs the stream's length: give SieveCallback(total=...)")
        return self._stream.progress

    def schedule(self, scheduler: Any, steps: int | None = None) -> dict[str, Any]:
        """Returns what `configure_optimizers` is to return: the scheduler, stepped with the
        optimizer.

        Where an epoch is a pass over the data it follows the share of the data consumed, so that it
        is fully decayed at the end; where steps are counted it is stepped as it is.

        Args:
            scheduler: built for `steps` steps.
            steps: of plain training; `self.steps` by default.

        Raises:
            ConfigError: if the number of steps is needed and unknown.
        """
        serves = self.filters and not self._leaving.left
        if not self._leaving.left:
            self._asked()
        if serves and (passes_of(self._trainer) is not None or self._given is not None):
            nominal = self.steps if steps is None else steps
            scheduler = Driven(scheduler, nominal, lambda: self.progress)
        return {"scheduler": scheduler, "interval": "step"}

    # ---- hooks

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begins anew, and checks the trainer before anything is trained (a hook of Lightning's).

        Raises:
            ConfigError: for what cannot be served rightly.
        """
        self._trainer, self._module = trainer, pl_module
        if self._leaving.stays(trainer) and stage == "fit" and self.filters:
            self._begin()
            check(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuses an unwrapped loader and undriven schedules (a hook of Lightning's)."""
        if not self.filters:
            return
        if not isinstance(trainer.train_dataloader, Filtered):
            raise not_wrapped()
        for found in trainer.lr_scheduler_configs if passes_of(self._trainer) is not None else ():
            if found.interval == "step" and not isinstance(found.scheduler, Driven):
                raise ConfigError(
                    f"{type(found.scheduler).__name__} steps with the optimizer, and nobody knows "
                    "beforehand how often that is (estimated_stepping_batches is no number here): "
                    "build it for self.sieved.steps and return self.sieved.schedule(scheduler) "
                    "from configure_optimizers, or set max_steps"
                )

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes how far the stream is with this batch (a hook of Lightning's)."""
        self._stream.begin_step()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks that the step trained on the sieve's loss, and logs (a hook of Lightning's)."""
        # Before a checkpoint is saved: those callbacks come last.
        if self._stream.end_step() and self._wants_losses:
            parts, automatic = trainer.accumulate_grad_batches, pl_module.automatic_optimization
            self._watch.end(outputs, parts, automatic)
        # Told every time they would cost a millisecond a batch, and Lightning writes few of them.
        # It counts this step or the next, by whether batches are accumulated.
        every, step = trainer.log_every_n_steps, trainer.global_step
        written = every and (step % every == 0 or (step + 1) % every == 0)
        sieve = None if trainer.barebones else self.sieve
        if sieve is not None and not sieve.detached and (written or trainer.should_stop):
            self._watch.check()
            pl_module.log_dict(sieve.figures())

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Stops the clock of training (a hook of Lightning's)."""
        if self.sieve is not None:
            self.sieve.ledger.pause()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Ends the pass under way and so the loader's workers (a hook of Lightning's)."""
        self._stream.close()
        if self.sieve is not None:
            self.sieve.finish()
        if self._leaving.soon:
            self._leaving.leave(self._trainers())

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Removes the callback once training fails, if `detach()` was called during it (Lightning
        calls this hook)."""
        if self._leaving.soon:
            self._leaving.leave(self._trainers())

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of all ranks, since one of them writes the checkpoint; it is called on
        all of them."""
        if self.sieve is None:
            return {}
        order = self._stream.order
        if order is None:
            order = generator_of(self._loader).get_state()
        own = {"sieve": self.sieve.state_dict(self._stream.ahead), "order": order}
        states = [own]
        if self._trainer.world_size > 1:
            states = [own] * self._trainer.world_size
            dist.all_gather_object(states, own)
        return {"ranks": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keeps what `state_dict` returned until there is a sieve to take it up."""
        self._saved = state_dict

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Refuses a checkpoint that was saved without a sieve (a hook of Lightning's).

        Raises:
            StateError: for such a checkpoint, if this training filters.
        """
        known = self.state_key in checkpoint.get("callbacks", {})
        if self.filters and trainer.state.fn == "fit" and not known:
            raise StateError(
                "the checkpoint was saved without a sieve, or before it had a batch: resume it "
                "without one (leave the callback out, or method='full')"
            )

    def __deepcopy__(self, memo: Any) -> SieveCallback:
        return self  # a copy of the module, as for averaged weights, is not trained

    # ---- parts

    def _asked(self) -> Any:
        """Returns the trainer, once it has asked for its train loader.

        Raises:
            ConfigError: if this callback is none of the trainer's.
        """
        trainer = self._put_into if self._trainer is None else self._trainer
        if trainer is None:
            raise ConfigError("the trainer does not know the sieve: Trainer(callbacks=[sieved])")
        if self._loader is None:  # the module's or the data module's, and not asked for yet
            _ = trainer.estimated_stepping_batches
        return trainer

    def _total(self) -> int | None:
        """Returns how many examples there are in all passes together; None if that is unknown."""
        return total_of(self._trainer, self._loader, self._given)

    def _built(self) -> Sieve:
        trainer, module = self._trainer, self._module
        scorer: Scorer | None = None
        # The module itself, not the strategy's wrapper, under the precision that it trains in.
        context = trainer.precision_plugin.train_step_context
        prepare = preparing(trainer, module)
        if self._head is not None:
            scorer = Task(module, self._head, context, prepare=prepare)
        elif self._losses is not None:
            scorer = PerExample(module, self._losses, self._size, context, prepare)
        several = trainer.world_size > 1
        sieve = Sieve.of_host(
            scorer,
            copy.deepcopy(self._method),
            total=self._total(),
            listeners=self._listeners,
            features=self._features,
            agreement=Ranks(device=str(trainer.strategy.root_device)) if several else Alone(),
            **self._options,
        )
        sieve.rates.known()  # what goes by steps is refused when training starts
        if passes_of(self._trainer) is None:
            sieve.may_exceed_total()
        if self._saved is not None:
            ranks = self._saved["ranks"]
            if len(ranks) != trainer.world_size:
                raise StateError(
                    f"the checkpoint was saved by {len(ranks)} ranks, there are "
                    f"{trainer.world_size}: resume on as many devices"
                )
            own = ranks[trainer.global_rank]
            sieve.load_state_dict(own["sieve"], trainer.strategy.root_device)
            self._stream.order = own["order"]
        return sieve

    def batches(self, loader: Any) -> Iterator[Any]:
        """Yields one epoch as Lightning sees it."""
        if self._leaving.left:
            yield from loader
            return
        if self._trainer is None:
            raise ConfigError("the trainer does not know the sieve: Trainer(callbacks=[sieved])")
        if self.sieve is None:
            check_sampler(self._trainer, loader)
            self.sieve = self._built()
            if self._leaving.soon:  # told so before the first batch
                self.sieve.detach()
        counted = isinstance(self._trainer.limit_train_batches, int)
        most, follows = passes_of(self._trainer) or math.inf, bool(self._total())
        yield from self._stream.epoch(self.sieve, loader, most, counted, follows)


def attach(trainer: Any, method: Recipe | Method | str | None = None, **options: Any) -> Any:
    """Adds a `SieveCallback` to a Lightning trainer, and returns it.

    Args:
        trainer: a `lightning.Trainer` that is not training yet.
        method, options: as in `SieveCallback`.

    Raises:
        ConfigError: if the trainer has one already, or for what cannot be served rightly.
    """
    if any(isinstance(callback, SieveCallback) for callback in trainer.callbacks):
        raise ConfigError(TWICE)
    sieved = SieveCallback(method, **options)
    trainer.callbacks.append(sieved)
    sieved._put_into = trainer
    return sieved
