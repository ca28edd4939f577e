"""The nearest class mean (NCM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.heads.features import check_sizes
from safa.precision import lifted, without_autocast
from safa.types import Fitting


class NearestMeanHead(nn.Module):
    """Logits are minus the squared distances to the class means of the training features.  [Kang et al. 2020, NCM]

    Args:
        in_features, num_classes: d and k.

    Shapes:
        features (…, d) -> logits (…, k), in float32 (float64 stays float64).

    Reading:
        The released code's "cl2n" with Euclidean distance, in its order: the mean of all training features (of
        images, so mostly of head classes) is taken off a feature, the difference is given length one, and class
        means are means of those. A mean is not given length one again; the paper's text says it is. A feature on
        the overall mean has no direction and stays 0, where the released code divides by 0. Logits lie in [-4, 0]
        and their softmax is nearly flat: the ranking is the classifier, its probabilities are not calibrated.

    Raises:
        UserError: if a size is below 1; in ``refit``, if a class has no training image.

    The former head is not used, only the features below it, and nothing here learns.
    """

    feature_mean: Tensor
    class_means: Tensor

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        self.in_features = in_features
        self.num_classes = num_classes
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("class_means", torch.zeros(num_classes, in_features))

    @torch.no_grad()
    def refit(self, former: nn.Module, fitting: Fitting) -> None:  # noqa: ARG002  (one signature for all)
        """Take the means of the training features."""
        features, labels = fitting.train()
        empty = sorted(set(range(self.num_classes)) - set(labels.tolist()))
        if empty:
            raise UserError(
                f"class {empty[0]} has no training image and so no mean; leave out classes without training images"
            )
        if int(labels.max()) >= self.num_classes:
            raise UserError(
                f"the head has {self.num_classes} classes, so labels are below that, got {int(labels.max())}"
            )
        features = lifted(features)
        self.feature_mean.copy_(features.mean(dim=0))
        directions = F.normalize(features - self.feature_mean.to(features), dim=1)
        for class_id, mean in enumerate(self.class_means):
            mean.copy_(directions[labels == class_id].mean(dim=0))

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            features = lifted(features)
            directions = F.normalize(features - self.feature_mean.to(features), dim=-1)
            means = self.class_means.to(features)
            # |x - m|^2 = |x|^2 - 2 x m + |m|^2, without a difference per image and class.
            lengths = directions.square().sum(dim=-1, keepdim=True) + means.square().sum(dim=1)
            return 2 * F.linear(directions, means) - lengths

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}"
