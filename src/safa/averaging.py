"""A moving average of a network's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from safa.errors import UserError


def moving_average(model: nn.Module, steps: float) -> AveragedModel:
    """A copy of the network for the average of its weights over about so many steps; the first step replaces it.

    Batch-norm statistics belong to the weights that made them, so they are averaged alike. The average is its
    ``module``: test and save that.

    Raises:
        UserError: if ``steps`` is not positive, or infinite, or if weights are in half precision, in which steps of
            an average are rounded away.
    """
    if not 0 < steps < math.inf:
        raise UserError(f"steps is how many steps are averaged over, so it must be positive and finite, got {steps}")
    half = {parameter.dtype for parameter in model.parameters()} & {torch.float16, torch.bfloat16}
    if half:
        raise UserError(
            f"the average of {half.pop()} weights would stand still, for its steps are rounded away; keep the network "
            "in float32, and train it under torch.autocast"
        )
    return AveragedModel(model, multi_avg_fn=_Moving(1 - 1 / max(1.0, steps)), use_buffers=True)


@dataclass(frozen=True)
class _Moving:
    """Moves averages of tensors of one type towards the current ones; a class, since closures cannot be pickled."""

    decay: float

    def __call__(self, averages: Any, current: Any, count: Any) -> None:
        if averages[0].is_floating_point():
            get_ema_multi_avg_fn(self.decay)(averages, current, count)  # type: ignore[no-untyped-call]
        else:  # counters of batches, of which a mean says nothing
            for average, latest in zip(averages, current, strict=True):
                average.copy_(latest)
