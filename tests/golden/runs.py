"""The golden runs: small trainings, each a function without arguments that returns its record.

Nothing in them depends on a clock (it stands still), on dropout, or on the random state that the
process happens to be in. Each takes a second or two at most. Here are the plain loops; those
under a host library are in `host_runs.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tests.golden import api, material
from tests.golden.compare import Record
from tests.golden.kit import RUNS, SMALL, Log, by_hand_method, golden
from tests.golden.material import Bag


def automatic_method() -> Any:
    """Return our method with automatic stages that move early enough for a small run."""
    return api.build_method(
        "finesieve",
        0,
        predictor_bits=10,
        cost_ratio=0.2,
        patience=48,
        window=256,
        recent=96,
        margin=0.02,
        audit=0.1,
    )


class Loop:
    """A plain PyTorch loop over one or more passes.

    method: makes the method; it is called anew for each loop, since a method is never shared.
    data: pass -> its batches. passes: over the data. first: number of the model's first
    parameters. decay: whether the learning rate falls to 0, with the share of the data consumed.
    settings: of the sieve.
    """

    def __init__(
        self,
        method: Callable[[], Any],
        data: Callable[[int], list[Any]],
        passes: int = 1,
        first: int = 0,
        decay: bool = True,
        **settings: Any,
    ) -> None:
        self.data, self.passes, self.log = data, passes, Log()
        self.model = Bag(first)
        steps = passes * len(data(0))
        total = passes * sum(len(_labels(batch)) for batch in data(0))
        self.sieve = api.make_sieve(self.model, method(), **{**SMALL, "total": total, **settings})
        self.optimizer = material.optimizer(self.model)
        self.schedule = api.follow_stream(
            torch.optim.lr_scheduler.LinearLR(
                self.optimizer, 1.0, 0.0 if decay else 1.0, total_iters=steps
            ),
            steps,
            self.sieve,
        )

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
        torch.save(
            {
                "sieve": api.state_of(self.sieve),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            file,
        )
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
    return Loop(automatic_method, _one_order(1600, noise=(600, 1000)), first=first, decay=False)


@golden(stages=(1, 2, 3, 1, 2, 3), weighted=True)
def automatic() -> Record:
    return _automatic().run()


@golden(stages=(1, 2, 3, 1, 2, 3), weighted=True, same_as="automatic")
def automatic_resumed() -> Record:
    """In stages 1, 2 and 3, with survivors waiting, and after the gates have opened again."""
    return _resumed(_automatic, 7, 44, 60, 96)


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
    return Loop(
        lambda: api.build_method(
            "finesieve",
            0,
            predictor_bits=10,
            budget=0.4,
            cost_ratio=0.05,
            patience=48,
            window=96,
            margin=0.02,
            audit=0.05,
        ),
        _one_order(1600, noise=(600, 1200)),
        decay=False,
    ).run()


@golden(stages=(1, 2, 3), weighted=False)
def paper() -> Record:
    return Loop(
        lambda: api.build_method("paper", 0, vocabulary=64, window=64), _one_order(640)
    ).run()


@golden(stages=(1, 2, 3), weighted=False)
def authors() -> Record:
    return Loop(
        lambda: api.build_method("authors", 0, vocabulary=64, window=64), _one_order(400)
    ).run()


@golden(stages=(3,), weighted=False)
def random_share() -> Record:
    return Loop(lambda: api.build_method("random", 0, share=0.3), _shuffled(320), passes=2).run()


@golden(stages=(1,), weighted=False)
def full() -> Record:
    return Loop(lambda: api.build_method("full", 0), _one_order(400)).run()


@golden(stages=(1, 2), weighted=False)
def selective_backprop() -> Record:
    return Loop(
        lambda: api.build_method("selective-backprop", 0, window=128), _one_order(640)
    ).run()


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
    return Loop(
        lambda: api.build_method("infobatch", 0),
        _shuffled(240, material.collate_own),
        passes=3,
        id_key="own",
    ).run()


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
    return Loop(
        lambda: by_hand_method(train=0.3, score=0.6),
        _one_order(480),
        lengths=[6, 12],
        batch_size=6,
        scoring_batch=16,
        seed=5,
    ).run()


from tests.golden import host_runs  # noqa: E402, F401  (enters its runs behind these)

__all__ = ["RUNS"]
