"""Post-hoc logit adjustment."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from safa.errors import UserError
from safa.heads.former import FormerHead
from safa.types import Fitting


class AdjustedHead(nn.Module):
    """The former head's logits less ``tau log(n_c / n)``: post-hoc logit adjustment.  [Menon et al. 2021]

    Args:
        in_features, num_classes: d and k.
        tau: 0 is the former head; 1 is consistent for the balanced error.

    Shapes:
        features (…, d) -> logits (…, k), in float32 (float64 stays float64).

    Reading:
        The prior is that of the training images, n_c of n. It is taken out once: the former head should have
        learnt it, that is from plain cross-entropy on batches as they come. After balanced softmax, DRW or a
        class-balanced sampler little of it is left, and the adjustment goes too far. Nothing here learns.

    Raises:
        UserError: if a size is below 1 or ``tau`` is negative or infinite; in ``refit``, if a class has no training
            image or the former head is neither linear nor cosine.

    ``LogitAdjustmentLoss`` adds the same term to the logits in training and leaves the head as it is.
    """

    log_prior: Tensor

    def __init__(self, in_features: int, num_classes: int, *, tau: float = 1.0) -> None:
        super().__init__()
        if not 0 <= tau < math.inf:
            raise UserError(f"tau must be at least 0, got {tau}; 0 is the former head")
        self.in_features = in_features
        self.num_classes = num_classes
        self.tau = tau
        self.former = FormerHead(in_features, num_classes)
        self.register_buffer("log_prior", torch.zeros(num_classes))

    def refit(self, former: nn.Module, fitting: Fitting) -> None:
        """Take over the former head's logits, and the class counts."""
        counts = torch.tensor(fitting.class_counts, dtype=torch.float64)
        if len(counts) != self.num_classes:  # a single one would be spread over all classes
            raise UserError(f"the head has {self.num_classes} classes, and there are counts of {len(counts)}")
        if counts.min() < 1:
            raise UserError(
                f"class {int(counts.argmin())} has no training image, so its prior is 0 and has no logarithm; "
                "leave out classes without training images"
            )
        self.former.take_over(former)
        self.log_prior.copy_((counts / counts.sum()).log())

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.former(features)
        return logits - self.tau * self.log_prior.to(logits)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, tau={self.tau}"
