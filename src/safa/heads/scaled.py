"""Learnable weight scaling (LWS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safa.heads.former import FormerHead
from safa.types import Fitting


class ScaledHead(nn.Module):
    """The former head's logits, each class times a scale that is learnt.  [Kang et al. 2020, LWS]

    Args:
        in_features, num_classes: d and k.

    Shapes:
        features (…, d) -> logits (…, k), in float32 (float64 stays float64).

    Reading:
        The paper scales weights, ``s_c w_c``, without a bias; the released code scales logits,
        ``s_c (w_c f + b_c)``, and so does this. Scales start at 1, that is at the former head. They are the
        only parameter, so a stage with ``trainable: [fc]`` learns them alone; its weight decay draws them
        towards 0, as in the released code. The head before may be a cosine head.

    Raises:
        UserError: if a size is below 1; in ``refit``, if the former head is neither linear nor cosine.

    LWS learns the length of each class vector from class-balanced batches; tau-normalisation sets it from its
    former length; cRT learns direction and length anew.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_classes = num_classes
        self.former = FormerHead(in_features, num_classes)
        self.scales = nn.Parameter(torch.ones(num_classes))

    def refit(self, former: nn.Module, fitting: Fitting) -> None:  # noqa: ARG002  (one signature for all)
        """Take over the former head's logits."""
        self.former.take_over(former)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.former(features)
        return self.scales.to(logits) * logits

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}"
