"""Run by test_ranks.py: two processes that train several times, started as torchrun starts them.

They are forked from this one, which has its imports made.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback

import finesieve as fs
from finesieve.batches.carry import IDS, WEIGHTS
from finesieve.integrations.transformers import attach as hf
from tests.integrations.accelerate.ranks import lopsided
from tests.integrations.transformers.kit import OPTIONS, Data, closed, model, same, trainer, weights

Facts = dict[str, Any]
UNSEEDED = {"accelerator_config": {"use_seedable_sampler": False}}  # each pass draws together


class Watch(TrainerCallback):
    """The gradient of every optimizer step, as the ranks agreed on it; batches and rates."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.rates: list[float] = []
        self.batches: list[int] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.gradients.append(
            torch.cat(
                [p.grad.flatten().double() for p in kw["model"].parameters() if p.grad is not None]
            )
        )

    def on_step_begin(self, *_: Any, **kw: Any) -> None:
        self.batches.append(1)

    def on_substep_end(self, *_: Any, **kw: Any) -> None:
        self.batches[-1] += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self.rates.append(kw["lr_scheduler"].get_last_lr()[0])


def digest(host: Trainer) -> list[float]:
    """Of the weights, to compare across ranks."""
    return [float(w.double().sum()) for w in weights(host)]


def trained(host: Trainer, method: Any, **options: Any) -> Facts:
    watch = Watch()
    host.add_callback(watch)
    attached = hf.attach(host, method, **{**OPTIONS, **options})
    done = host.train()
    sieve = attached.sieve
    assert sieve is not None
    examples = sieve.ledger.examples
    return {
        "steps": host.state.global_step,
        "moves": [m["stage"] for m in sieve.moves],
        "weights": digest(host),
        "passes": sieve.passes,
        "drawn": examples.drawn,
        "yielded": examples.yielded,
        "held": sieve.held,
        "batches": watch.batches,
        "rates": watch.rates,
        "conserved": examples.drawn == examples.yielded + examples.dropped + sieve.held,
        "progress": None if sieve._total is None else sieve.progress,
        "pace": done.metrics["train_samples_per_second"] * done.metrics["train_runtime"],
    }


def switched_off(folder: Path) -> Facts:
    """The bare trainer, the method "full", and gates that never close: to the bit."""
    args: Facts = {"data": Data(150)}
    bare = trainer(folder, **args)
    bare.train()
    full = trainer(folder, **args)
    hf.attach(full, "full")
    full.train()
    args = {"data": Data(128), "lr_scheduler_type": "constant"}
    even = trainer(folder, **args)
    even.train()
    opened = trainer(folder, **args)
    hf.attach(opened, closed(starts={}))
    opened.train()
    return {
        "full": same(weights(bare), weights(full)),
        "open": same(weights(even), weights(opened)),
        "learned": not same(weights(bare), weights(trainer(folder))),
        "weights": digest(bare),
        "steps": [h.state.global_step for h in (bare, full, even, opened)],
    }


def closed_gates(folder: Path, rank: int) -> Facts:
    out: Facts = {}
    for parts in (1, 2):
        more: Facts = {"gradient_accumulation_steps": parts, "data": Data(150)}
        out[f"epochs {parts}"] = trained(trainer(folder, **more), closed())
        out[f"steps {parts}"] = trained(
            trainer(folder, max_steps=13, **more), closed(starts={3: 0.0})
        )
        out[f"lopsided {parts}"] = trained(trainer(folder, **more, **UNSEEDED), lopsided(rank))
    return out


# ---- the gradient's scale


def alike(i: int, ids: Tensor) -> Tensor:
    """Labels of ten tokens, one of which is the first and no target."""
    return torch.cat([ids, ids.new_full((20,), 3)])[:10]


class Even(Data):
    """Texts of ten tokens each."""

    def __init__(self, n: int) -> None:
        super().__init__(n, alike)
        for row in self.rows:
            row["input_ids"] = row["labels"]


def causal() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def unaware() -> nn.Module:
    """Of a class that takes no `num_items_in_batch`."""
    net: Any = model()
    net.accepts_loss_kwargs = False
    return net  # type: ignore[no-any-return]


def has_trl() -> bool:
    return find_spec("trl") is not None and find_spec("datasets") is not None


def gradients(host: Trainer, method: Any = None, **options: Any) -> list[Tensor]:
    watch = Watch()
    host.add_callback(watch)
    if method is not None:
        hf.attach(host, method, **options)
        if options.get("group") is None:  # every batch goes as if its weights were not all 1
            compute = host.compute_loss

            def through(net: nn.Module, inputs: Any, *rest: Any, **more: Any) -> Any:
                inputs[WEIGHTS] = torch.ones(len(inputs[IDS]))
                return compute(net, inputs, *rest, **more)

            host.compute_loss = through
    host.train()
    return watch.gradients


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def scales(folder: Path) -> Facts:
    """The weighted path, all weights 1, against the host; the furthest of all steps."""
    still: Facts = {
        "learning_rate": 0.0,
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "num_train_epochs": 1,
        "logging_steps": 1000,
    }
    makers: dict[str, tuple[Callable[[], Any], Any]] = {
        "classes": (model, Data(32)),
        "unaware": (unaware, Data(32)),
        "causal": (causal, Even(32)),
    }
    out: Facts = {}
    for name, parts, averaged in (
        ("classes", 1, True),
        ("classes", 2, True),
        ("classes", 2, False),
        ("unaware", 2, True),
        ("causal", 1, True),
        ("causal", 2, True),
        ("causal", 2, False),
    ):
        make, data = makers[name]
        args = {
            **still,
            "gradient_accumulation_steps": parts,
            "average_tokens_across_devices": averaged,
        }
        host = gradients(trainer(folder, make(), data, **args))
        ours = gradients(trainer(folder, make(), data, **args), closed(starts={}))
        assert len(host) == len(ours) == 2 // parts
        out[f"{name} {parts} {averaged}"] = max(map(error, ours, host))
    if has_trl():
        from tests.integrations.transformers.test_trl import Dataset, sft

        texts = Dataset.from_list(
            [{"text": " ".join(f"w{(i * k) % 60}" for k in range(9))} for i in range(32)]
        )
        args = {**still, "gradient_accumulation_steps": 2}
        host = gradients(sft(folder, texts, causal(), **args))
        ours = gradients(sft(folder, texts, causal(), **args), closed(starts={}))
        out["supervised"] = max(map(error, ours, host))
    texts = Data(192, lambda i, ids: ids)
    host = gradients(trainer(folder, causal(), texts, **still))
    ours = gradients(
        trainer(folder, causal(), texts, **{**still, "num_train_epochs": 8}),
        closed(train=0.4, score=1.0, starts={2: 0.0}),
        pool=48,
        group=8,
    )
    found, expected = torch.stack(ours).mean(0), torch.stack(host).mean(0)
    out["rolls"] = [float(found @ expected / expected.square().sum()), error(found, expected)]
    return out


# ---- checkpoints


def resumed(folder: Path, rank: int) -> Facts:
    out: Facts = {}
    makers: dict[str, tuple[Any, Facts]] = {
        "ours": (closed, {}),
        "lopsided": (lambda: lopsided(rank), UNSEEDED),
    }
    for name, (make, args) in makers.items():
        at = folder / name
        more = {
            "save_strategy": "steps",
            "save_steps": 1,
            "save_total_limit": 40,
            "gradient_accumulation_steps": 1,
            "data": Data(160),
            **args,
        }
        options: Facts = {**OPTIONS, "batch_size": 4}
        ends: list[int] = []
        whole = trainer(at, callbacks=[Passes(ends)], **more)
        hf.attach(whole, make(), **options)
        whole.train()
        for step in (3, ends[0] - 1):  # there a rank may have nothing left of the pass
            again = trainer(at, model(seed=9), **more)
            hf.attach(again, make(), **options)
            again.train(resume_from_checkpoint=str(at / f"checkpoint-{step}"))
            out[f"{name} {step}"] = same(weights(whole), weights(again))
        out[name] = {
            "steps": whole.state.global_step,
            "ends": ends,
            "weights": digest(whole),
            "files": sorted(f.name for f in (at / "checkpoint-3").glob("finesieve*")),
        }
    alone = trainer(folder / "alone")
    hf.attach(alone, closed(), **OPTIONS)
    out["more ranks"] = refusal(
        lambda: alone.train(resume_from_checkpoint=str(folder / "alone" / "checkpoint-4"))
    )
    return out


class Passes(TrainerCallback):
    """The steps with which passes ended."""

    def __init__(self, ends: list[int]) -> None:
        self._ends = ends

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
        self._ends.append(state.global_step)


def refusal(action: Callable[[], Any]) -> str:
    try:
        action()
    except fs.FinesieveError as caught:
        return f"{type(caught).__name__}: {caught}"
    return "no error"


# ---- the rest


def evaluated(folder: Path) -> Facts:
    host = trainer(folder, eval_strategy="epoch", logging_steps=2)
    attached, shown = hf.attach(host, closed(), **OPTIONS), io.StringIO()
    with redirect_stdout(shown):
        host.train()
        loss = host.evaluate()["eval_loss"]
        bare = trainer(folder, host.model).evaluate()["eval_loss"]
    assert attached.sieve is not None
    logs = [h for h in host.state.log_history if "sieve_stage" in h]
    return {
        "drawn": attached.sieve.ledger.examples.drawn,
        "losses": [loss, bare],
        "evaluations": sum("eval_loss" in h for h in host.state.log_history),
        "logged": len(logs),
        "shown": shown.getvalue().count("'sieve_stage'"),
        "figures": logs[-1],
        "own": attached.figures(),
    }


class Stream(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """Of one width, since Accelerate cannot dispatch others."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(Even(300).rows)


def loaders(folder: Path) -> Facts:
    def streamed(**config: Any) -> Trainer:
        return trainer(folder, causal(), Stream(), max_steps=12, accelerator_config=config)

    refused = streamed()
    hf.attach(refused, fs.methods.registry.build("random", 0, share=0.5))
    off = streamed()
    hf.attach(off, "full")
    off.train()
    return {
        "dispatched": refusal(refused.train),
        "full": off.state.global_step,
        "sharded": trained(
            streamed(dispatch_batches=False), fs.methods.registry.build("random", 0, share=0.5)
        ),
        "split": trained(trainer(folder, accelerator_config={"split_batches": True}), closed()),
    }


def supervised(folder: Path) -> Facts | None:
    if not has_trl():
        return None
    from tests.integrations.transformers.test_trl import sft

    host = sft(folder)
    return trained(host, closed())


def failing(folder: Path, rank: int) -> None:
    """One rank's loss function gives up in the middle; the other waits for its gradient."""
    calls = []

    def losses(net: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        if rank == 1 and len(calls) > 6:
            raise RuntimeError("no loss on rank 1")
        bare = {k: v for k, v in batch.items() if k != "labels"}
        return F.cross_entropy(net(**bare).logits, batch["labels"], reduction="none")

    host = trainer(folder)
    hf.attach(host, closed(), losses=losses)
    host.train()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # Resuming on several ranks, transformers 4 loads the optimizer to `cpu:0`, unknown to torch.
    torch.serialization.register_package(
        11,
        lambda storage: None,
        lambda storage, location: storage if location.startswith("cpu:") else None,
    )
    rank = trainer(folder).args.process_index  # it makes the process group
    out = {
        "off": switched_off(folder),
        "closed": closed_gates(folder, rank),
        "scales": scales(folder),
        "resumed": resumed(folder, rank),
        "evaluated": evaluated(folder),
        "loaders": loaders(folder),
        "supervised": supervised(folder),
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(out))
    torch.distributed.barrier()
    try:
        failing(folder, rank)
    except Exception:
        traceback.print_exc()  # else only that of the rank which failed first is told
        raise


if __name__ == "__main__":
    config = LaunchConfig(
        1,
        1,
        2,
        run_id="ranks",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, main)(Path(sys.argv[1]))
