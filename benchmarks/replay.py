"""The fast laboratory: sizes of one plain run, recorded once, replayed through gates.

    python benchmarks/replay.py --data-dir DIR [--sets emotion subj ...]
    python benchmarks/replay.py --data-dir DIR --words --output results/research/words.json

Trains MiniLM plainly on a set and records every example's size as its training forward
gave it, with its tokens, its label and the mean of the hidden states behind the first layers.
Then the stream is gone through in pools of 256 by each way of choosing, priced from its tenth on:
what it would have scored and trained on, and the variance it would have had. Predictors and probes
learn only what is revealed to them, after they have predicted it. Given is variance x cost in units
of plain training's (below 1 pays), at the best of the shares tried, for several cost ratios
(scoring an example over training on it). Writes results/replay.json. With --words two ways alone
are compared: the predictor with the model's word vectors, and without.
"""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from finesieve import Features, Offer
from finesieve.batches.carry import inputs
from finesieve.cli.config import Config
from finesieve.cli.memory import keep_memory
from finesieve.cli.training.prepare import prepare
from finesieve.cli.training.progress import Live
from finesieve.cli.training.summary import hardware, versions
from finesieve.cli.training.train import Run
from finesieve.gates.predictor import SizeRegression, hashed
from finesieve.gates.sampling import balanced_threshold, inclusion, solve_threshold
from finesieve.stages.window import auc

ROOT = Path(__file__).parent.parent
POOL, BEGIN = 256, 0.1
DEPTHS = (1, 2, 3)  # layers of the truncated scorers
WORDS = 0  # no layer: the words' own vectors, as they are before training
RATIOS = (0.15, 0.2, 0.3)
SHARES = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)
FLOORS, AUDIT = (0.1, 0.05), 0.02
SETS: dict[str, dict[str, Any]] = {
    "emotion": {"limit": 12000},
    "subj": {},
    "dbpedia14_14k": {},
    "sst2": {"lr": 1e-4, "limit": 20000},
    "hwu64": {},
    "airline_tweets": {},
    "emotion, 3 epochs": {"limit": 5000, "epochs": 3},  # priced from the second one on
    "subj, 3 epochs": {"limit": 4000, "epochs": 3},
}


class Recording(Run):
    """A plain run that keeps what its forwards showed."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seen: dict[str, list[Any]] = {
            k: [] for k in ("ids", "size", "loss", "label", *(f"depth{d}" for d in DEPTHS))
        }
        layers = next(m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList))
        self._behind: dict[int, Any] = {}
        for depth in DEPTHS:
            layers[depth - 1].register_forward_hook(self._keep(depth))

    def _keep(self, depth: int) -> Callable[..., None]:
        def hook(module: Any, given: Any, out: Any) -> None:
            self._behind[depth] = (out[0] if isinstance(out, tuple) else out).detach()

        return hook

    def losses(self, model: Any, batch: Any) -> torch.Tensor:
        given = inputs(batch)
        ids, labels = given.pop("example"), given.pop("labels")
        with self.autocast():
            logits = model(**given).logits.float()
        loss = F.cross_entropy(logits, labels, reduction="none")
        error = logits.detach().softmax(-1) - F.one_hot(labels, logits.shape[-1])
        kept = {"ids": ids, "size": error.norm(dim=-1), "loss": loss.detach(), "label": labels}
        mask = given["attention_mask"][:, :, None].float()
        for depth, hidden in self._behind.items():
            kept[f"depth{depth}"] = (hidden.float() * mask).sum(1) / mask.sum(1)
        for name, value in kept.items():
            self.seen[name].append(value.numpy().copy())
        return loss


@dataclass
class Stream:
    """What was recorded, in the order of training."""

    ids: Any  # int64[n], of the example, the same in every epoch
    tokens: Any  # int64[n, width], -1 where there is none
    label: Any
    size: Any
    hidden: dict[int, Any]  # float32[n, width] behind so many layers
    begin: float  # share of the stream from which on it is priced
    targets: Any = None  # float32[n], how many targets each example has, where it is several

    def pools(self) -> list[slice]:
        return [slice(i, min(i + POOL, len(self.size))) for i in range(0, len(self.size), POOL)]


def recorded(name: str, folder: Path, threads: int) -> Stream:
    base = folder / name.partition(",")[0]
    config = Config(
        train=str(base / "train.jsonl.gz"),
        eval=(str(base / "validation.jsonl.gz"),),
        eval_limit=10,
        method="full",
        precision="bf16",
        max_length=64,
        threads=threads,
        **{"lr": 2e-4, **SETS.get(name, {})},
    )
    data = prepare(config)
    run = Recording(config, data, None, Live("plain", quiet=True))
    table = run.model.get_input_embeddings().weight.detach().clone()
    run.train()
    seen = {k: np.concatenate(v) for k, v in run.seen.items()}
    given = data.train.batch(seen["ids"])
    tokens = np.where(given["attention_mask"].numpy() > 0, given["input_ids"].numpy(), -1)
    hidden = {d: seen[f"depth{d}"] for d in DEPTHS}
    hidden[WORDS] = summed(table - table.mean(dim=0), torch.from_numpy(tokens)).numpy()
    begin = 1 / config.epochs if config.epochs > 1 else BEGIN
    size = seen["size"].astype(np.float64)
    return Stream(seen["ids"], tokens, seen["label"], size, hidden, begin)


def summed(table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the sums of each example's word vectors, with a mean square of 1."""
    real = tokens >= 0
    ends = real.sum(dim=1).cumsum(0)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), ends[:-1]))
    sums = F.embedding_bag(tokens[real], table, starts, mode="sum")
    return sums / sums.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)


# ---- what foresees the size


class Foresees(ABC):
    """Sizes, before they are revealed."""

    @abstractmethod
    def predict(self, at: Any) -> Any:
        """float64[n], of the examples at these places of the stream."""

    def learn(self, at: Any) -> None:  # noqa: B027 - not abstract
        """From what is revealed; some kinds have nothing to learn."""


class Hashed(Foresees):
    """The predictor of the forward gate."""

    def __init__(self, stream: Stream, crossed: bool = True, **settings: Any) -> None:
        self.model, self.stream, self.crossed = SizeRegression(**settings), stream, crossed

    def _targets(self, at: Any) -> Any:
        return None if self.stream.targets is None else self.stream.targets[at]

    def _offer(self, at: Any, **more: Any) -> Offer:
        label = self.stream.label[at] if self.crossed else np.zeros(len(at), np.int64)
        features = Features(self.stream.tokens[at], label.astype(np.int64), self._targets(at))
        return Offer(self.stream.ids[at], stage=3, features=features, **more)

    def predict(self, at: Any) -> Any:
        return self.model.predict(self._offer(at)).astype(np.float64)

    def learn(self, at: Any) -> None:
        if len(at):
            self.model.learn(self._offer(at, size=self.stream.size[at].astype(np.float32)))


class Words(Hashed):
    """The predictor, and what the words' own vectors tell: the size by a softmax regression of the
    label on their mean, as one feature more, of which a power is learned."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.model._power = 0.3  # until it is learned
        self.probe = Probe(stream, WORDS, rate=5e-3, step=64)

    def _targets(self, at: Any) -> Any:
        return np.maximum(self.probe.predict(at) / 1e-3, 1.0).astype(np.float32)

    def learn(self, at: Any) -> None:
        super().learn(at)
        self.probe.learn(at)


class Several(Foresees):
    """The mean of several predictors, of hash tables of different sizes."""

    def __init__(self, stream: Stream) -> None:
        self.inner = [Hashed(stream, bits=bits) for bits in (18, 19, 20)]

    def predict(self, at: Any) -> Any:
        return np.mean([one.predict(at) for one in self.inner], axis=0)

    def learn(self, at: Any) -> None:
        for one in self.inner:
            one.learn(at)


class Wary(Hashed):
    """Lets rare words through: predictions rise with how little their features have been seen."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.count = np.zeros((1 << self.model.bits) + 1)

    def predict(self, at: Any) -> Any:
        slots = hashed(self._offer(at).features, self.model.bits, self.model.bigrams)
        unsure = (1 / (1 + self.count[slots])).mean(axis=1)
        return super().predict(at) * (1 + unsure)

    def learn(self, at: Any) -> None:
        super().learn(at)
        if len(at):
            slots = hashed(self._offer(at).features, self.model.bits, self.model.bigrams)
            np.add.at(self.count, slots.reshape(-1), 1)


class Probe(Foresees):
    """Softmax regression on hidden states; the size follows from its probabilities."""

    def __init__(self, stream: Stream, depth: int, rate: float = 3e-3, step: int = 32) -> None:
        self.step = step
        self.hidden, self.label = torch.from_numpy(stream.hidden[depth]), stream.label
        self.net = torch.nn.Linear(self.hidden.shape[1], int(stream.label.max()) + 1)
        torch.nn.init.zeros_(self.net.weight)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=rate)

    def predict(self, at: Any) -> Any:
        with torch.no_grad():
            error = self.net(self.hidden[at]).softmax(-1).numpy()
        error[np.arange(len(at)), self.label[at]] -= 1
        return np.linalg.norm(error, axis=1).astype(np.float64) + 1e-4

    def learn(self, at: Any) -> None:
        for i in range(0, len(at), self.step):
            some = at[i : i + self.step]
            loss = F.cross_entropy(self.net(self.hidden[some]), torch.from_numpy(self.label[some]))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class Scaled(Foresees):
    """Another's predictions, calibrated: times sizes over predictions in bins of these."""

    def __init__(self, inner: Any, stream: Stream) -> None:
        self.inner, self.size = inner, stream.size
        self.found, self.said = np.full(8, 1e-3), np.full(8, 1e-3)

    def _bins(self, value: Any) -> Any:
        return np.clip(np.log2(np.maximum(value, 1e-4) / 1.4142) + 7, 0, 7).astype(int)

    def predict(self, at: Any) -> Any:
        value = self.inner.predict(at)
        return value * (self.found / self.said)[self._bins(value)]

    def learn(self, at: Any) -> None:
        value = self.inner.predict(at)
        bins = self._bins(value)
        for sums, add in ((self.found, self.size[at]), (self.said, value)):
            sums *= 0.97
            sums += np.bincount(bins, add, minlength=8) * 0.03
        self.inner.learn(at)


class Known(Foresees):
    """Foresees everything: what no predictor can do better than."""

    def __init__(self, stream: Stream) -> None:
        self.size = stream.size

    def predict(self, at: Any) -> Any:
        return self.size[at]


class Nothing(Foresees):
    """All alike."""

    def predict(self, at: Any) -> Any:
        return np.ones(len(at))


# ---- ways of choosing


def gone_through(
    stream: Stream,
    predictor: Any,
    share: float,
    ratio: float | None,
    floors: tuple[float, float] = FLOORS,
) -> dict[str, float]:
    """Replay: a forward gate lets `share` through by the predictor; a scoring pass at `ratio` of
    a training step; the backward gate by balance. ratio None: no scoring, what the forward gate
    lets through is trained on."""
    dice = np.random.default_rng(0)
    scored = trained = variance = plain = 0.0
    count = 0
    said, found = [], []
    for pool in stream.pools():
        at = np.arange(pool.start, pool.stop)
        s = stream.size[at]
        predicted = predictor.predict(at)
        if pool.start < stream.begin * len(stream.size):
            predictor.learn(at)
            continue
        said.append(predicted)
        found.append(s)
        rule = inclusion(
            predicted, solve_threshold(predicted, share * len(at), floors[0]), floors[0]
        )
        q = AUDIT + (1 - AUDIT) * rule if share < 1 else np.ones(len(at))
        if ratio is None:
            p = np.ones(len(at))
        else:
            cost = float(q.sum()) * ratio
            p = inclusion(s / q, balanced_threshold(s / q, cost, floors[1], q), floors[1])
            scored += float(q.sum())
        trained += float((q * p).sum())
        variance += float((s * s / (q * p)).sum())
        plain += float((s * s).sum())
        count += len(at)
        predictor.learn(at[dice.random(len(at)) < q])
    mean = np.concatenate(found).mean()
    say, truth = np.concatenate(said), np.concatenate(found)
    cost = (trained + scored * (ratio or 0.0)) / count
    return {
        "price": cost * variance / plain,
        "cost": cost,
        "scored": scored / count,
        "trained": trained / count,
        "share": share,
        "auc": auc(say, truth > mean, np.ones(len(say))),
        "calibration": float(say.sum() / truth.sum()),
    }


def best(
    stream: Stream,
    make: Callable[[], Any],
    ratio: float | None,
    shares: tuple[float, ...] = SHARES,
    extra: float = 0.0,
    floors: tuple[float, float] = FLOORS,
) -> dict[str, float]:
    """The share with the lowest price; extra: cost of foreseeing itself, for every example."""
    rows = [gone_through(stream, make(), share, ratio, floors) for share in shares]
    for row in rows:
        row["price"] *= (row["cost"] + extra) / row["cost"]
        row["cost"] += extra
    row = min(rows, key=lambda r: r["price"])
    return {k: round(float(v), 4) for k, v in row.items()}


def compared(stream: Stream, layers: int) -> list[dict[str, Any]]:
    out = []

    def add(way: str, ratio: float | None, row: dict[str, float]) -> None:
        out.append({"way": way, "ratio": ratio, **row})
        print(
            f"  {way:46s} {ratio}  " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True
        )

    predictors: dict[str, Callable[[], Any]] = {
        "predictor": lambda: Hashed(stream),
        "predictor, labels not crossed": lambda: Hashed(stream, crossed=False),
        "predictor, single tokens": lambda: Hashed(stream, bigrams=False),
        "predictor, rate 0.05": lambda: Hashed(stream, rate=0.05),
        "predictor, rate 0.2": lambda: Hashed(stream, rate=0.2),
        "predictor, calibrated": lambda: Scaled(Hashed(stream), stream),
        "predictor, three averaged": lambda: Several(stream),
        "predictor, rare words let through": lambda: Wary(stream),
        "predictor that knows": lambda: Known(stream),
    }
    for ratio in RATIOS:
        add("all scored", ratio, best(stream, Nothing, ratio, (1.0,)))
        for name, make in predictors.items():
            if ratio == RATIOS[-1] or name in ("predictor", "predictor that knows"):
                add(f"{name} + scoring", ratio, best(stream, make, ratio))
    for floors in ((0.05, 0.02), (0.2, 0.1)):
        name = f"predictor, floors {floors[0]} and {floors[1]} + scoring"
        add(name, RATIOS[-1], best(stream, predictors["predictor"], RATIOS[-1], floors=floors))
    for name, make in predictors.items():
        if name.split(",")[-1] in ("predictor", " calibrated", "predictor that knows"):
            add(f"{name}, no scoring", None, best(stream, make, None))
    for depth in DEPTHS:

        def probe(depth: int = depth) -> Any:
            return Scaled(Probe(stream, depth), stream)

        for ratio in RATIOS:
            extra = ratio * depth / layers
            add(
                f"probe behind {depth}, no full scoring",
                ratio,
                best(stream, probe, None, extra=extra),
            )
            # What passes goes on from the layer where the probe was, so the extra is paid once.
            rest = ratio - extra
            add(f"probe behind {depth} + scoring", ratio, best(stream, probe, rest, extra=extra))
    return out


def with_words(stream: Stream) -> list[dict[str, Any]]:
    """The predictor with word vectors, and without."""
    out = []
    for ratio in RATIOS:
        everything = best(stream, Nothing, ratio, (1.0,))
        out.append({"way": "all scored", "ratio": ratio, **everything})
        for way, kind in (("predictor", Hashed), ("predictor, words", Words)):
            row = best(stream, lambda kind=kind: kind(stream), ratio)
            out.append({"way": way, "ratio": ratio, **row})
            print(f"  {out[-1]}", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--words", action="store_true", help="word vectors alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default=str(ROOT / "results" / "replay.json"))
    args = parser.parse_args()
    keep_memory()
    found = {}
    for name in args.sets:
        stream = recorded(name, Path(args.data_dir), args.threads)
        print(f"{name}: {len(stream.size)} examples", flush=True)
        found[name] = {
            "examples": len(stream.size),
            "ways": with_words(stream) if args.words else compared(stream, 6),
        }
    Path(args.output).write_text(
        json.dumps(
            {
                "command": "python benchmarks/replay.py --data-dir DIR" + " --words" * args.words,
                "of": args.sets,
                "versions": versions(),
                "hardware": hardware(torch.device("cpu")),
                "sets": found,
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
