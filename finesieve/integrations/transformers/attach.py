"""Hugging Face's Trainer: one line, `attach(trainer)`, before `trainer.train()`.

The trainer's class stays as it is: six of this one object's methods (`HOOKS`) are wrapped, and
each calls the one it wraps. Evaluation is never filtered. While no weights are needed (the gates
are open, or the method has none) the host computes its own loss, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset

try:
    from accelerate.data_loader import DataLoaderDispatcher
    from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    from finesieve.errors import install

    raise ImportError(
        f"finesieve.integrations.transformers.attach needs {error.name}: {install('hf')}"
    ) from None

from finesieve.batches.carry import RIDING, of_kind
from finesieve.batches.carry import inputs as bare
from finesieve.errors import ConfigError
from finesieve.gates.features import FeatureFunction
from finesieve.integrations import common as hosts
from finesieve.integrations.transformers import checkpoint
from finesieve.integrations.transformers import refusals as hf_refusals
from finesieve.integrations.transformers import trl as hf_trl
from finesieve.integrations.transformers.callback import SieveCallback
from finesieve.integrations.transformers.hooks import HOOKS, Hooks
from finesieve.integrations.transformers.loader import FilteredLoader
from finesieve.integrations.transformers.loss import TrainedLoss
from finesieve.integrations.transformers.tasks import (
    LossFunction,
    TokensPerExample,
    decoder_needs_targets,
    find_head,
    head_of,
    scorer_of,
)
from finesieve.methods.method import Method
from finesieve.methods.recipe import Recipe
from finesieve.methods.registry import method_of
from finesieve.scoring import heads
from finesieve.scoring.frozen import FrozenPrefix
from finesieve.scoring.protocol import Scorer
from finesieve.scoring.scorers import SIZE_ALONE, SizeFunction
from finesieve.sieve.options import Listener
from finesieve.sieve.ranks import Alone, Ranks
from finesieve.sieve.sieve import Sieve

__all__ = ["HOOKS", "Attached", "attach", "head_of"]


def attach(
    trainer: Any,
    method: Recipe | Method | str | None = None,
    *,
    head: heads.Head | None = None,
    losses: LossFunction | None = None,
    size: SizeFunction | None = None,
    features: FeatureFunction | None = None,
    prefix: FrozenPrefix | None = None,
    listeners: Sequence[Listener] = (),
    **options: Any,
) -> Attached:
    """Filter what this trainer trains on. Returns a handle whose `.sieve` lives while it trains.

    With `num_train_epochs` an epoch is one pass over the data, of other steps than plain training;
    the learning rate follows the share of the data consumed. With `max_steps` the trainer makes as
    many steps as it is told, over as much data as that takes, and the schedule is its own. Sets
    `args.ignore_data_skip`: when resuming, the sieve finds its place itself.

    Args:
        trainer: a `transformers.Trainer`, or one built on it that leaves `compute_loss` alone;
            TRL's `SFTTrainer`.
        head: the task; found from the model's class and `config.problem_type` by default. For
            targets that are tokens, an example's loss is then its sum over the average number of
            them, as measured: over the data, the trainer's own mean over tokens. One that is given
            is also what is trained on, with gates open too (class weights, say:
            `SingleLabel(class_weights=...)`).
        losses: for any other task: a function (model, batch) -> loss per example, float[n]. On
            several ranks the model it trains comes inside its DistributedDataParallel.
        size: beside `losses`, the size of the gradient that goes with a loss, float[n] -> float[n];
            the loss itself by default (see `scores.PerExample`).
        features: what the predictor looks at; the head's own by default.
        listeners: called with every event. With them, or with `head`, a method that looks at no
            losses (`Full()`, say) is watched too, for `insights`.
        prefix: frozen first layers of the trainer's model, run once an example: training begins
            with what they put out in the scoring pass.
        options: further settings of `Sieve`, e.g. `batch_size` (survivors a batch; by default half
            of the trainer's own per device, which keeps optimizer steps, and all of it on long
            streams) or `total` (examples of this rank in all passes, where the loader does not
            tell: with `max_steps` and a budget, say).

    Raises:
        ConfigError: for what cannot be served rightly, with the setting to change.
    """
    attached = Attached(trainer, method, head, losses, size, features, prefix, listeners, options)
    attached._hooks.put(attached, SieveCallback(attached), attached.filters)
    return attached


class Attached(hosts.Handle):
    """What `attach` returns; its `sieve` is that of the training under way or done last."""

    def __init__(
        self,
        trainer: Any,
        method: Recipe | Method | str | None,
        head: heads.Head | None,
        losses: LossFunction | None,
        size: SizeFunction | None,
        features: FeatureFunction | None,
        prefix: FrozenPrefix | None,
        listeners: Sequence[Listener],
        options: dict[str, Any],
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise ConfigError(f"a {type(trainer).__name__}; expected a transformers.Trainer")
        if any(isinstance(c, SieveCallback) for c in trainer.callback_handler.callbacks):
            raise ConfigError(hosts.TWICE)
        self._hooks = Hooks(trainer)
        self._host = self._hooks.own
        self.losses = 0  # batches that the trainer asked `compute_loss` for
        self.trainer: Any = trainer
        self._method, self._options = method, options
        self._features, self._prefix, self._listeners = features, prefix, listeners
        if size is not None and losses is None:
            raise ConfigError(SIZE_ALONE)
        self._losses, self._size = losses, size
        made = method_of(method, 0)
        self.filters = made.filters
        self.head = head
        self._own_loss = hf_trl.loss_of(trainer)
        self._sft = losses is None and self._own_loss == "trl.SFTTrainer"
        self._pairs = self._own_loss in hf_trl.PAIRS
        if self.filters:
            wrong = hf_refusals.unfit(
                trainer, self._own_loss, losses=losses is not None, head=head is not None
            )
            if prefix is not None:
                wrong += hf_refusals.unshared(trainer, prefix, losses is not None)
            if wrong:
                raise ConfigError("the sieve cannot be attached: " + "; ".join(wrong))
        looked_at = head is not None or bool(listeners)
        if losses is None and (self.filters or looked_at or options.get("head_start")):
            self.head = find_head(trainer, head, self._sft)
        taken = sorted({"clock", "agreement", "scorer"} & options.keys())
        if taken:
            raise ConfigError(f"{', '.join(taken)}: the trainer's own is used; leave it out")
        hosts.check_method(made, options, "an attached sieve", by_steps=True)
        self._per: TokensPerExample | None = None
        if head is None and isinstance(self.head, heads.Tokens):
            self._per = TokensPerExample(
                self.head, self._all_labels(), not decoder_needs_targets(trainer.model)
            )
        self.sieve: Sieve | None = None
        self.loader: FilteredLoader | None = None
        self.checkpoint: str | None = None
        self.begun: dict[str, Any] = {}  # random states when the pass under way began
        self.epochs = self._epochs()  # None: as many steps as told
        self._loss = TrainedLoss(
            trainer,
            self._host["compute_loss"],
            self.head,
            losses,
            sft=self._sft,
            # A loss of the user's choice is trained on with gates open too: one objective.
            own=self.filters and (losses is not None or (head is not None and not self._sft)),
            watches=made.scores or made.learns or looked_at,
            compares=self.filters,
        )
        self._trains = False  # whether a training is under way
        self._leaving = False  # whether it gives the trainer back when that ends
        self._finer = 1  # batches of survivors that make up one of the loader's

    def _epochs(self) -> int | None:
        args = self.trainer.args
        return None if args.max_steps > 0 else int(args.num_train_epochs)

    # ---- what is wrapped

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **more: Any
    ) -> Any:
        """Trains as the trainer does; remembers which checkpoint is taken up."""
        found = resume_from_checkpoint
        if found is True:
            found = get_last_checkpoint(self.trainer.args.output_dir)  # type: ignore[no-untyped-call]
        self.checkpoint = str(found) if found else None
        self._trains = True
        try:
            return self._host["train"](resume_from_checkpoint, *rest, **more)
        finally:
            self._trains = False
            if self._leaving:
                self._hooks.take_back()

    def get_train_dataloader(self) -> Any:
        """Returns the trainer's own loader, filtered, with a new sieve."""
        inner = self._host["get_train_dataloader"]()
        args = self.trainer.args
        ranks, batch_size = args.world_size, self._batch_size(inner)
        if self.filters and ranks > 1 and isinstance(inner, DataLoaderDispatcher):
            raise ConfigError(
                *hosts.unserved(dispatched="set accelerator_config={'dispatch_batches': False}")
            )
        length = len(inner) if hosts.sized(inner) else None
        self.epochs = self._epochs()
        options = dict(self._options)
        total = options.pop("total", None)
        drawn = hosts.examples(inner, batch_size, ranks)
        if total is None and self.epochs is not None and drawn is not None:
            total = self.epochs * drawn
        device = args.device
        # A method of the user's own is copied: gates and predictor are new in each training.
        method = copy.deepcopy(self._method)
        # The trainer takes all batches of an optimizer step before it trains on the first.
        step = max(batch_size, options.get("batch_size") or 0) * args.gradient_accumulation_steps
        self.sieve = Sieve.of_host(
            self._scorer(),
            method,
            total=total,
            features=self._features or self._default_features(),
            agreement=Ranks(device=str(device)) if ranks > 1 else Alone(),
            listeners=[*self._listeners, self._told],
            **{"seed": args.seed + args.process_index, "read_ahead": step, **options},
        )
        self.sieve.rates.known()  # the trainer's steps are counted, or the schedule is driven
        if self.epochs is None:
            self.sieve.may_exceed_total()
        self.begun = {}
        if self._leaving:  # told so before it drew anything, or while the batch size was searched
            self.sieve.detach()
        if self.checkpoint and self.filters:
            self._load(Path(self.checkpoint))
        if not self.filters:  # resuming, the trainer skips batches, of no loader but its own
            if self.checkpoint:
                return inner
            self.loader = FilteredLoader(self, inner, length)
            return self.loader
        self._finer = -(-batch_size // self.sieve.survivors(batch_size))
        known = None if self.epochs is None or length is None else length * self._finer
        self.loader = FilteredLoader(self, inner, known)
        return self.loader

    def _batch_size(self, loader: Any) -> int:
        """Returns how many examples a batch of this rank has, as the loader has it: a host may
        settle that after the trainer was made, as SetFit does."""
        size, args = int(self.trainer._train_batch_size), self.trainer.args
        found = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
        if isinstance(found, int) and not isinstance(
            getattr(loader, "dataset", None), IterableDataset
        ):
            size = found
        return size // args.world_size if self.trainer.accelerator.split_batches else size

    def create_scheduler(self, num_training_steps: int, *rest: Any, **more: Any) -> Any:
        """Returns the trainer's schedule, driven by the share of the data consumed."""
        if self.filters and self.epochs is not None:  # told by the loader's length, an upper bound
            num_training_steps = -(-num_training_steps // self._finer)
        plain = self._host["create_scheduler"](num_training_steps, *rest, **more)
        if plain is None:  # a subclass's, which sets `lr_scheduler`: the trainer asks for no more
            plain = self.trainer.lr_scheduler
        return self._driven(plain, num_training_steps)

    def create_optimizer_and_scheduler(
        self, num_training_steps: int, *rest: Any, **more: Any
    ) -> None:
        """Makes both as the trainer does; drives the schedule also where a subclass makes it right
        here."""
        self._host["create_optimizer_and_scheduler"](num_training_steps, *rest, **more)
        self._driven(self.trainer.lr_scheduler, num_training_steps)

    def _driven(self, plain: Any, steps: int) -> Any:
        """Returns a schedule made for so many steps, driven by the share of the data consumed; as
        it is where steps are counted, or evaluations drive it."""
        followed = self.filters and self.epochs is not None
        if not followed or plain is None or isinstance(plain, hosts.Driven):
            return plain
        if "metrics" in signature(plain.step).parameters:  # goes by evaluations
            return plain
        self.trainer.lr_scheduler = hosts.Driven(plain, max(1, steps), self._progress)
        return self.trainer.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Returns the trainer's own loss where nothing is weighed, else the weighted mean over
        examples; with the model's outputs where they are asked for."""
        # In a copy: a training_step may ask for a second loss of its batch (adversarial training).
        carried = {key: inputs[key] for key in RIDING if key in inputs}
        inputs = bare(inputs)
        if (id_key := self._options.get("id_key")) in inputs:
            inputs = of_kind(type(inputs), {k: v for k, v in inputs.items() if k != id_key})
        host = self._host["compute_loss"]
        self.losses += bool(carried)
        if not carried or self.sieve is None:
            return host(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        sharing = nullcontext() if self._prefix is None else self._prefix.shared(carried)
        with sharing:
            loss, outputs = self._loss(self.sieve, model, inputs, carried, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        """Logs as the trainer does, with stage, realised rates and savings among the training
        logs."""
        attached = self.sieve is not None and not self.sieve.detached
        if "loss" in logs and attached and self.filters:
            logs.update(self.figures())
        self._host["log"](logs, *rest, **more)

    def _told(self, event: dict[str, Any]) -> None:
        """Reads what was compared when losses were read anyway: no further wait for a GPU."""
        if event["event"] == "trained":
            self._loss.scale.check()

    # ---- parts

    def detach(self) -> None:
        """Filters no more, and gives the trainer back as it was: its own methods, without the
        sieve's callback.

        In mid-training, batches come as the trainer's loader has them from the next pass on, and
        the loss of these is the trainer's own; the trainer is given back when it has trained. Until
        then the hooks keep the epoch, the learning rate and the place in the data.
        """
        if self.sieve is not None:
            self.sieve.detach()
        self._leaving = True
        if not self._trains:
            self._hooks.take_back()

    def _all_labels(self) -> bool:
        """Returns whether the first labels of texts are among the items that the trainer counts and
        divides by, as in transformers 4. It does not divide by them where it smooths labels."""
        trainer = self.trainer
        counted = trainer.model_accepts_loss_kwargs and not trainer.args.label_smoothing_factor
        return bool(counted and not hasattr(trainer, "_loss_shifts_labels"))

    def _default_features(self) -> FeatureFunction | None:
        if self._pairs:
            return hf_trl.pair_features()
        return self.head.features() if self.head else None

    def _scorer(self) -> Scorer | None:
        return scorer_of(
            self.trainer.model, self.head, self._losses, self._size, self._prefix, self._pairs
        )

    def _progress(self) -> float:
        assert self.sieve is not None
        return self.sieve.progress

    def save(self, folder: Path) -> None:
        """Writes the sieve's state into the trainer's checkpoint."""
        assert self.sieve is not None
        state = {
            "sieve": self.sieve.state_dict(),
            "begun": self.begun,
            "is_share": self._loss.scale.is_share,
            "per": self._per.state_dict() if self._per else None,
        }
        checkpoint.write(folder, self.trainer.args, state)

    def _load(self, folder: Path) -> None:
        assert self.sieve is not None
        state = checkpoint.read(folder, self.trainer.args)
        self.sieve.load_state_dict(state["sieve"], self.trainer.args.device)
        self._loss.scale.is_share, self.begun = state["is_share"], state["begun"]
        if self._per is not None and state["per"] is not None:
            self._per.load_state_dict(state["per"])

    def drawn(self, batches: Any) -> Iterator[Any]:
        """Yields the loader's batches on their way into the sieve."""
        assert self.sieve is not None
        for batch in batches:
            if self._per is not None:
                self._per.see(batch, self.sieve.stage == 1)
            yield self.folded(batch)

    def folded(self, batch: Any) -> Any:
        """Returns a batch of the trainer's as the sieve draws it: pairs as one example each."""
        return hf_trl.fold(batch) if self._pairs else batch

    def yielded(self, batch: Any) -> Any:
        """Returns a batch of the sieve's as the trainer's own are."""
        return hf_trl.unfold(batch) if self._pairs else batch
