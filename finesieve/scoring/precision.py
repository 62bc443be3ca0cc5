"""The precision of the scoring pass: bf16 where training is in float32 and bf16 is faster."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from finesieve.gates.protocol import State
from finesieve.scoring.mode import unwrapped
from finesieve.scoring.protocol import Launched, Scores

PRECISIONS = ("auto", "training")
# Numbers in matrices from which on bf16 is faster. Casting them takes launches of its own, so on a
# GPU a small model, whose forward is bound by launches, gains nothing.
_MATRICES = {"cpu": 100_000, "cuda": 30_000_000}
_APART = 0.05  # how far the sizes of a batch may lie apart, as a share of their mean
_AGAIN = 8  # times as many batches until both are compared again

Launch = Callable[[Any], Scores | Launched]


def fast_bf16(device: torch.device) -> bool:
    """Returns whether the device has instructions for bf16; where it is emulated it is slow.

    oneDNN says yes on every x86 processor with AVX-512, and emulates bf16 on those that lack
    AVX512-BF16 and AMX, more slowly than it computes fp32.
    """
    if device.type == "cuda":
        able: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return able
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type != "cpu" or not known or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    asked = [ask for name in names if (ask := getattr(torch.cpu, name, None)) is not None]
    if platform.machine().lower() not in ("x86_64", "amd64") or not asked:
        return True
    return any(ask() for ask in asked)


class Precision:
    """Runs scoring forwards in bf16 where training is in float32 and that makes them faster.

    A score need not be exact. It sets the chance to survive, and a survivor's weight is one over
    that chance whatever it is, so the expected gradient stays that of plain training.

    The first batch of a pool is scored in both precisions, and so are the 8th, the 64th, ...:
    training's is kept where the sizes lie apart, or where the scorer does not run in bf16. A
    context that the scorer enters itself comes inside and so is what counts: a scorer in mixed
    precision stays in its own. Compiled models are left alone, for which another precision is
    another graph to compile.

    Args:
        wanted: "auto", or "training" for training's precision in any case.
        model: to be scored; None, or no module, where nothing is known of it: training's precision.

    Attributes:
        compared: whether the last batch was scored in both, so that its time says nothing.
    """

    def __init__(self, wanted: str, model: Any) -> None:
        self._model = model if isinstance(model, nn.Module) else None
        self._faster = self.compared = False
        self._count = 0  # batches scored
        # The batch at which both are compared next; None: never.
        self._due = 1 if wanted == "auto" and self._model is not None else None

    def launched(self, launch: Launch, batch: Any) -> Scores | Launched:
        """Returns what `launch` makes of the batch."""
        self.compared = False
        if self._due is not None and self._count + 1 >= self._due:
            found = self._compared(launch, batch)
        else:
            found = (self._rough(launch, batch) if self._faster else None) or launch(batch)
        self._count += 1  # only now: a batch that memory was not enough for comes again
        return found

    def _compared(self, launch: Launch, batch: Any) -> Scores | Launched:
        """Returns what `launch` makes of the batch in training's precision, and goes on in bf16 if
        that says about the same. Waits for the device."""
        found = launch(batch)
        # What frozen layers put out is trained on, too.
        if found.prefix is not None or not self._pays():
            self._give_up()
            return found
        self.compared, self._due = True, (self._count + 1) * _AGAIN
        rough = self._rough(launch, batch)
        if rough is not None:
            exact = _sizes(found)
            apart = float(np.abs(exact - _sizes(rough)).mean())  # NaN if one of them is
            self._faster = apart <= _APART * float(exact.mean())
        return found

    def _rough(self, launch: Launch, batch: Any) -> Scores | Launched | None:
        """Returns what `launch` makes of the batch in bf16; None if it cannot, and then it is not
        asked again."""
        try:
            with self._context():
                return launch(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # an operation, or a conversion to NumPy, that does not know bf16
            self._give_up()
            return None

    def _give_up(self) -> None:
        self._faster, self._due = False, None

    def state_dict(self) -> State:
        """Returns what `load_state_dict` takes up: a resumed run scores as it would have."""
        return {"faster": self._faster, "count": self._count, "due": self._due}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned; a device that is slow at bf16 scores without it."""
        self._count = state["count"]
        if self._due is not None:
            self._due = state["due"]
            self._faster = state["faster"] and self._pays()

    def _device(self) -> torch.device:
        assert self._model is not None
        return next((p.device for p in self._model.parameters()), torch.device("cpu"))

    def _context(self) -> AbstractContextManager[Any]:
        # Without a cache a cast matrix is freed after its use: a pass uses each of them once.
        return torch.autocast(self._device().type, torch.bfloat16, cache_enabled=False)

    def _pays(self) -> bool:
        """Returns whether the model is float32, large enough, not compiled, and on a device fast at
        bf16."""
        assert self._model is not None
        if any(map(_compiled, (self._model, unwrapped(self._model)))):
            return False
        device = self._device()
        if not fast_bf16(device) or torch.is_autocast_enabled(device.type):
            return False
        numbers = [p for p in self._model.parameters() if p.is_floating_point()]
        if any(p.dtype != torch.float32 for p in numbers):
            return False
        matrices = sum(
            p.numel()
            for module in self._model.modules()
            if not isinstance(module, nn.Embedding)
            for p in module.parameters(recurse=False)
            if p.ndim > 1
        )
        return matrices >= _MATRICES[device.type]


def _compiled(model: nn.Module) -> bool:
    """Returns whether it is of `torch.compile(model)` or was compiled by `model.compile()`."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def _sizes(found: Scores | Launched) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the sizes, float64[n]; the losses where sizes follow from them."""
    sizes = found.loss if found.size is None else found.size
    if isinstance(sizes, torch.Tensor):
        sizes = sizes.detach().double().cpu().numpy()
    return np.asarray(sizes, dtype=np.float64)
