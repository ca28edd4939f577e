"""Half precision is for products of matrices; what is summed, divided or compared is lifted first."""

from __future__ import annotations

import torch
from torch import Tensor


def lifted(x: Tensor) -> Tensor:
    """Half types to float32; float32 and float64 as they are.

    Sums and norms in half precision lose the small differences of features, and a probability of 0.7 is none.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
