"""Weights of single images, learnt in every step on a small balanced meta set.

Each is called with a ``Lookahead`` and returns weights (n,), detached; the loss of the training step is
``(weights * losses).sum()``. Combine them with a loss without class weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safa.errors import UserError
from safa.methods.lookahead import influence
from safa.precision import without_autocast
from safa.types import Lookahead
from safa.weighting import ClassCounts, effective_number_weights


class LearningToReweight(nn.Module):
    """Weigh images by how much a step on them alone lowers the meta loss; none below 0.  [Ren et al. 2018, L2RW]

    From weights of 0 the virtual step goes nowhere: the weight of image i is the product of its gradient with
    the meta gradient, cut off at 0, and all weights sum to 1. There is nothing to keep between steps.

    Reading:
        Where no image helps, all weights are 0 and the step has no loss, as released.

    ``MetaWeightNet`` learns a rule, from loss to weight, over all steps; this one starts anew in every step.
    """

    def forward(self, look: Lookahead) -> Tensor:
        _, gradient = influence(look)
        return _with_sum_one((-gradient).clamp_min(0))


class MetaWeightNet(nn.Module):
    """Weigh images by their loss, with a small network that is trained on the meta loss.  [Shu et al. 2019]

    Args:
        hidden: hidden units of the network loss -> weight in (0, 1).
        lr, momentum, weight_decay: of its SGD with Nesterov momentum, a step per training step.

    Its momentum is part of the ``state_dict``, so that a restored run goes on as it would have. The optimizer
    of the classifier must not be given its parameters.

    Reading:
        - In the virtual step the weights are constants to the classifier, as the paper and the authors' code
          for noisy labels have it. Their code for class imbalance lets the gradient of the
          virtual step (not of the real one) also pass through the loss that the network reads.
        - Weights are divided by their sum over the batch, in the virtual and in the real step, as in the code
          for class imbalance; the one for noisy labels divides by n.
        - SGD at 1e-5 is the released choice for class imbalance; for noisy labels it is Adam at 1e-3.

    Raises:
        UserError: if ``hidden`` is below 1 or another setting below 0.

    ``FocalLoss`` is a fixed rule from loss to weight; this one may weigh hard images up or down.
    """

    def __init__(
        self, *, hidden: int = 100, lr: float = 1e-5, momentum: float = 0.9, weight_decay: float = 5e-4
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise UserError(f"hidden must be at least 1 unit, got {hidden}; Shu et al. use 100")
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise UserError(f"{name} must be at least 0, got {value}")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.rule = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
        for index, parameter in enumerate(self.rule.parameters()):
            self.register_buffer(f"velocity_{index}", torch.zeros_like(parameter))

    def forward(self, look: Lookahead) -> Tensor:
        losses, gradient = influence(look, self.weights)
        self._descend(torch.autograd.grad(self.weights(losses), list(self.rule.parameters()), gradient))
        return self.weights(losses).detach()

    def weights(self, losses: Tensor) -> Tensor:
        """Weights of rows with these losses, shapes (n,) and (n,), sum 1."""
        with without_autocast(losses):  # a step of 1e-5 is less than half precision sees
            own = next(self.rule.parameters()).dtype
            return _with_sum_one(self.rule(losses.to(own).unsqueeze(1)).squeeze(1)).to(losses.dtype)

    @torch.no_grad()
    def _descend(self, gradients: tuple[Tensor, ...]) -> None:
        """What ``torch.optim.SGD(..., nesterov=True)`` does, with the velocity where the state dict finds it."""
        for index, (parameter, gradient) in enumerate(zip(self.rule.parameters(), gradients, strict=True)):
            velocity = self.get_buffer(f"velocity_{index}")
            decayed = gradient + self.weight_decay * parameter
            velocity.mul_(self.momentum).add_(decayed)
            parameter.sub_(self.lr * (decayed + self.momentum * velocity))

    def extra_repr(self) -> str:
        return f"lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}"


class MetaClassWeight(nn.Module):
    """Class weights plus a correction of each image by one step on the meta loss.  [Jamal et al. 2020]

    Args:
        class_counts: training images per class, shape (k,).
        beta: of the class weights w_y, see ``effective_number_weights``.
        step: learning rate of the corrections.

    The weight of image i is ``(w_y + correction_i) / n``; corrections start from 0 in every step.

    Reading:
        All as released: the virtual step sums the weighted losses over the batch where the real one takes
        their mean, so it is n times as long, which suits a learning rate that has dropped; weights are neither
        cut off at 0 nor normalised.

    Raises:
        UserError: for wrong counts, a ``beta`` outside [0, 1) or a negative ``step``.

    With ``step=0`` this is class-balanced re-weighting (but for the mean, which ``CrossEntropyLoss`` divides by
    the sum of w_y). Jamal et al. begin with it where DRW does, after 160 of 200 epochs.
    """

    class_weights: Tensor

    def __init__(self, class_counts: ClassCounts, *, beta: float = 0.9999, step: float = 0.01) -> None:
        super().__init__()
        if not step >= 0:
            raise UserError(f"step must be at least 0, got {step}; Jamal et al. use 0.01")
        self.beta, self.step = beta, step
        self.register_buffer("class_weights", effective_number_weights(class_counts, beta), persistent=False)

    def forward(self, look: Lookahead) -> Tensor:
        of_classes = self.class_weights[look.labels.long()]
        _, gradient = influence(look, lambda _: of_classes)
        return (of_classes - self.step * gradient) / len(of_classes)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, step={self.step}"


def _with_sum_one(weights: Tensor) -> Tensor:
    """Weights over their sum; all zeros stay zeros."""
    total = weights.sum()
    return weights / torch.where(total == 0, 1.0, total)
