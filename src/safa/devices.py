"""From the CPU, where random numbers are drawn and samplers count, to the device that works with them."""

from __future__ import annotations

import torch
from torch import Tensor

CPU = torch.device("cpu")  # also where another device is torch's default


def wait(device: torch.device) -> None:
    """Until the device has done what it was given, as a clock must before it is read; the CPU has at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def placed(device: torch.device, *drawn: Tensor) -> tuple[Tensor, ...]:
    """What was drawn on the CPU, tensors of one type, put on a device in one copy, which does not wait for CUDA."""
    # Elsewhere such a copy may read memory that is free again: https://github.com/pytorch/pytorch/issues/189690
    together = torch.cat(drawn).to(device, non_blocking=device.type == "cuda")
    return torch.split(together, [len(part) for part in drawn])
