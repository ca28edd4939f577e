"""Half precision is for products of matrices; what is summed, divided or compared is lifted first."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def lifted(x: Tensor) -> Tensor:
    """Half types to float32; float32 and float64 as they are.

    Sums and norms in half precision lose the small differences of features, and a probability of 0.7 is none.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(beside: Tensor) -> AbstractContextManager[Any]:
    """No autocast on the device of a tensor, for what half precision is too coarse for; some devices have none."""
    device = beside.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def bf16_cost() -> float:
    """Time of a convolution in bf16 over that in float32 on this CPU, measured now, in some tenths of a second.

    Below 1 on processors with instructions for it, and from 5 to 10 where it is emulated. Torch can tell which
    instructions there are, but not what they are worth.
    """
    return _seconds_of_convolution(torch.bfloat16) / _seconds_of_convolution(torch.float32)


def _seconds_of_convolution(dtype: torch.dtype) -> float:
    """Of one in the middle of a ResNet-32, forward and backward; the fastest of three, after one that warms up."""
    maps = torch.ones(16, 32, 16, 16, dtype=dtype, device="cpu").to(memory_format=torch.channels_last)
    weight = torch.ones(32, 32, 3, 3, dtype=dtype, device="cpu").to(memory_format=torch.channels_last)
    leaves = maps.requires_grad_(), weight.requires_grad_()
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        torch.autograd.grad(conv2d(maps, weight, padding=1).sum(), leaves)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
