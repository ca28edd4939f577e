"""The cosine head of LDAM-DRW."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.heads.features import check_sizes
from safa.precision import lifted, without_autocast


class CosineHead(nn.Module):
    """Logits are cosines between features and class vectors, times a scale.  [Cao et al. 2019, LDAM-DRW]

    Args:
        in_features, num_classes: d and k.
        scale: what a cosine is multiplied by; 30 in LDAM-DRW on all data sets.

    Shapes:
        features (…, d) -> logits (…, k), each in ``[-scale, scale]``, in float32 (float64 stays float64).

    Reading:
        LDAM-DRW's ``NormedLinear`` returns bare cosines and its loss multiplies by 30. Here the head
        multiplies, so that every loss reads final logits and ``softmax(logits)`` is the probability that was
        trained. The weight is stored as ``nn.Linear`` stores it, (k, d); the released code keeps (d, k). A
        cosine in bfloat16 has steps of about 0.004, a tenth of a logit after scaling, so the head leaves
        autocast.

    Raises:
        UserError: if a size is below 1 or ``scale`` is not positive, or infinite.

    ``LinearHead`` lets the norm of a class vector grow with the class's share of the images; here all norms
    are one.
    """

    def __init__(self, in_features: int, num_classes: int, *, scale: float = 30.0) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        if not 0 < scale < math.inf:
            raise UserError(f"scale multiplies cosines, so it must be positive, got {scale}; LDAM-DRW uses 30")
        self.in_features = in_features
        self.num_classes = num_classes
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw class vectors from U(-1, 1) and give them length one."""
        with torch.no_grad():
            self.weight.uniform_(-1.0, 1.0)
            self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            directions = F.normalize(lifted(features), dim=-1)
            class_vectors = F.normalize(self.weight.to(directions), dim=1)
            return self.scale * F.linear(directions, class_vectors)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, scale={self.scale}"
