"""A pretended CUDA device: tensors say that they are on it, and every wait for it is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

FAR = torch.device("cuda:0")
MUCH = 16  # operations: in the tests' models those of more than one step


def _near(x: Any) -> Any:
    return x.near if isinstance(x, FarTensor) else x


class FarTensor(Tensor):
    """Says that it is on the device; its numbers are in `near`, on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        made = Tensor._make_wrapper_subclass(cls, near.shape, dtype=near.dtype, device=FAR)
        made.near = near
        return made  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Any:  # indexing itself would look for a real device
        return FarTensor(self.near[tree_map(_near, index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.near[tree_map(_near, index)] = _near(value)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # of an operation outside of `far`
        raise AssertionError(f"{func} outside of the pretended device")


class Far(TorchDispatchMode):
    """Inside, `torch.device("cuda")` is there.

    waits: names of the operations for which a program would have waited until the device had done
    all it was given: numbers read, and copies in either direction that were not told not to wait.
    """

    READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.given = 0  # operations that the device was given so far

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        given: list[bool] = []

        def near(x: Any) -> Any:
            if isinstance(x, Tensor):
                given.append(isinstance(x, FarTensor))
            return x.near if isinstance(x, FarTensor) else x

        args, kwargs = tree_map(near, args), tree_map(near, kwargs)
        to = kwargs.pop("device", None)
        far = any(given) if to is None else torch.device(to).type == "cuda"
        if name in ("copy_", "cat") and len(set(given)) > 1:
            raise AssertionError(f"{name} between devices")
        moved = name == "_to_copy" and far != any(given)
        # What is not contiguous is copied to ordinary memory on its way, pinned or not.
        plain = moved and not (kwargs.get("non_blocking") and args[0].is_contiguous())
        if (any(given) and name in self.READS) or plain:
            self.waits.append(name)
        self.given += far
        if to is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*args, **kwargs)
        return tree_map(lambda x: FarTensor(x) if far and isinstance(x, Tensor) else x, found)


@contextmanager
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """Pretends that there is a CUDA device, and gives what counts the waits. Without gradients:
    autograd would look for a real device."""

    class Event:
        def __init__(self, device: Any) -> None:
            self.at = 0

        def record(self, stream: Any) -> None:
            self.at = device.given

        def synchronize(self) -> None:  # no wait where the device was given much since
            if device.given - self.at < MUCH:
                device.waits.append("event")

    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    device = Far()
    with torch.no_grad(), device:
        yield device
