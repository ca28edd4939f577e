"""The head before this one, held still."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError
from safa.heads.cosine import CosineHead
from safa.heads.features import check_sizes
from safa.precision import lifted, without_autocast

Kind = TypeVar("Kind", bound=nn.Module)


class FormerHead(nn.Module):
    """The logits of a linear or cosine head, copied into buffers: in the state, but nothing here learns.

    Args:
        in_features, num_classes: d and k.

    Shapes:
        features (…, d) -> logits (…, k), in float32 (float64 stays float64).

    Reading:
        Buffers, not parameters without gradient: a stage that lets ``fc`` learn sets ``requires_grad`` on all
        of its parameters. Both kinds of head have one form, ``weight @ x + bias``, where x is the feature for a
        linear head and the feature's direction for a cosine head; ``of_directions`` says which. It is a tensor,
        so that the state says it and a new head need not know which kind it will hold.

    Raises:
        UserError: if a size is below 1.
    """

    weight: Tensor
    bias: Tensor
    of_directions: Tensor

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        check_sizes(in_features, num_classes)
        self.register_buffer("weight", torch.zeros(num_classes, in_features))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("of_directions", torch.tensor(False))

    @torch.no_grad()
    def take_over(self, former: nn.Module) -> None:
        """Copy a head.

        Raises:
            UserError: if it is neither linear nor cosine, or of other sizes.
        """
        bias: Tensor | None = None
        if computes_as(former, nn.Linear):
            weight, bias = former.weight, former.bias
        elif computes_as(former, CosineHead):
            weight = former.scale * F.normalize(lifted(former.weight), dim=1)
        else:
            raise UserError(
                f"a linear or cosine head can be taken over, not {type(former).__name__}; "
                "give the stage before head: linear or head: cosine"
            )
        check_fit(self.weight, weight)
        self.weight.copy_(weight)
        self.bias.copy_(torch.zeros_like(self.bias) if bias is None else bias)
        self.of_directions.fill_(computes_as(former, CosineHead))

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            features = lifted(features)
            features = torch.where(self.of_directions, F.normalize(features, dim=-1), features)
            return F.linear(features, self.weight.to(features), self.bias.to(features))


def computes_as(head: nn.Module, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether a head computes what heads of this kind do; a subclass may compute something else."""
    return isinstance(head, kind) and type(head).forward is kind.forward


def check_fit(weight: Tensor, former: Tensor) -> None:
    """Raises ``UserError`` if the former head's weight is for other numbers of features or classes."""
    if weight.shape != former.shape:
        (classes, features), (former_classes, former_features) = weight.shape, former.shape
        raise UserError(
            f"the head was built for {features} features and {classes} classes but the former head has "
            f"{former_features} and {former_classes}; build it with those"
        )
