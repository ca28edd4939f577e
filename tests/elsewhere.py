"""A device of one's own, for machines without a GPU: what runs there runs on a GPU too, as far as devices go.

Its numbers lie in the memory of the CPU. They say that they are on ``DEVICE``, and inside ``watched`` they behave as on
CUDA: a CPU tensor beside one of theirs is an error unless it is a scalar, random numbers come from a generator of the
device's own, and what makes the CPU wait for a result is counted. One thing is stricter: CUDA takes an index of the
CPU, and waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # the one device besides the CPU that autograd knows in every build of torch

_READ = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "_linalg_eigh"}  # by the CPU, on CUDA


class There(Tensor):
    """A tensor on the device; ``here`` are its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        there = Tensor._make_wrapper_subclass(cls, here.size(), **layout, dtype=here.dtype, device=DEVICE)
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} was called outside watched()")


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """The device is there inside. Counts ``waits``, and ``uploads`` of tensors to it, which CUDA need not wait for."""
    autocast, device = torch.autocast, _Device()
    with pytest.MonkeyPatch.context() as patch, device:
        patch.setattr(torch, "autocast", lambda _, **options: autocast("cpu", **options))  # it does not know the device
        yield device.seen


class _Device(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        comes_from = any(isinstance(tensor, There) for tensor in tensors)
        goes_to = comes_from
        if kwargs.get("device") is not None:
            goes_to, kwargs["device"] = torch.device(kwargs["device"]) == DEVICE, torch.device("cpu")
        self._judge(func, name, args, tensors, comes_from, goes_to)
        with _own_numbers(goes_to and torch.Tag.nondeterministic_seeded in func.tags):
            made = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if name.endswith("_") and not name.startswith("_"):  # in place
            return args[0]
        return tree_map(lambda part: There(part) if goes_to and isinstance(part, Tensor) else part, made)

    def _judge(self, func: Any, name: str, args: Any, tensors: list[Tensor], comes_from: bool, goes_to: bool) -> None:
        """Count what crosses over, and refuse what meets."""
        copies = name in ("_to_copy", "copy_")
        if name == "copy_":
            goes_to, comes_from = isinstance(args[0], There), isinstance(args[1], There)
        elif not copies and goes_to and any(tensor.dim() for tensor in tensors if not isinstance(tensor, There)):
            raise RuntimeError(f"{func} mixes devices: {[tuple(tensor.shape) for tensor in tensors]}")
        by_mask = name.startswith("index") and any(tensor.dtype == torch.bool for tensor in tensors[1:])
        self.seen["waits"] += comes_from and (name in _READ or by_mask or (copies and not goes_to))
        self.seen["uploads"] += copies and goes_to and not comes_from


@contextmanager
def _own_numbers(drawn: bool) -> Iterator[None]:
    """Random numbers that leave the generator of the CPU as it is."""
    with torch.random.fork_rng(devices=[], enabled=drawn):
        if drawn:
            torch.manual_seed(7)
        yield


def _here(leaf: Any) -> Any:
    return leaf.here if isinstance(leaf, There) else leaf
