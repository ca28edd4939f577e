"""How much the weight of each image in one training step matters to the meta set."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jvp
from torch.overrides import TorchFunctionMode

from safa.errors import UserError
from safa.precision import lifted
from safa.types import Lookahead

Parameters = dict[str, Tensor]
Weigh = Callable[[Tensor], Tensor]
"""Losses of the rows, detached -> weights of the rows in the virtual step; (n,) -> (n,)."""


@torch.enable_grad()
def influence(look: Lookahead, weigh: Weigh | None = None) -> tuple[Tensor, Tensor]:
    """Gradient of the meta loss after a virtual step by the weight of each image in that step.

    The virtual step is ``ahead = theta - lr * grad(sum_i w_i loss_i(theta))``, so the gradient by w_i is
    ``-lr * <grad meta_loss(ahead), grad loss_i(theta)>``. All n products are one forward-mode derivative of
    the vector of losses along the meta gradient: nothing is differentiated twice.

    Args:
        look: the training step and the meta batch.
        weigh: weights of the virtual step; None for zeros, for which the step goes nowhere and is not taken.

    Returns:
        Losses of the rows and the gradient by their weights, shapes (n,) and (n,), detached.

    Reading:
        - The virtual step is plain SGD, without momentum and weight decay, and there is no decay in the meta
          loss. The released codes agree, but for that of Ren et al., whose meta loss has the decay in it.
        - The meta loss is the mean over the meta batch of the loss that the stage names. The released codes
          have cross-entropy in both places.
        - Layers run in the mode they are in. In training mode batch norm takes the statistics of each batch;
          the running ones are updated in a copy that is thrown away. Layers that stand still (no gradient)
          stand still in the virtual step too.

    Raises:
        UserError: if labels are not class ids, if no parameter of the network learns, or if an operation of it has no
            forward-mode derivative.
    """
    _check_labels(look.labels, look.meta_labels)
    here = {name: p.detach() for name, p in look.network.named_parameters() if p.requires_grad}
    if not here:
        raise UserError(
            f"images are weighed by a step of the parameters that learn, and {type(look.network).__name__} has none; "
            "let some of them require gradients"
        )
    ahead = here if weigh is None else _virtual_step(look, here, weigh)
    meta_gradient = _gradient(ahead, lambda p: _losses(look, p, look.meta_images, look.meta_labels).mean())
    losses, slopes = _losses_along(look, here, meta_gradient)
    return losses, -look.lr * slopes


def _virtual_step(look: Lookahead, here: Parameters, weigh: Weigh) -> Parameters:
    def weighted_sum(parameters: Parameters) -> Tensor:
        losses = _losses(look, parameters, look.images, look.labels)
        return (weigh(losses.detach()).detach() * losses).sum()

    gradient = _gradient(here, weighted_sum)
    return {name: value - look.lr * gradient[name] for name, value in here.items()}


def _gradient(parameters: Parameters, loss: Callable[[Parameters], Tensor]) -> Parameters:
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, gradients, strict=True))


def _losses_along(look: Lookahead, here: Parameters, direction: Parameters) -> tuple[Tensor, Tensor]:
    """Losses of the rows and their slopes along a direction of the parameters, (n,) and (n,)."""
    _load_derivatives()
    try:
        with _WholeNorms():
            losses, slopes = jvp(  # type: ignore[misc]  # a third result only with has_aux
                lambda p: _losses(look, p, look.images, look.labels), (here,), (direction,)
            )
    except NotImplementedError as error:
        raise UserError(
            f"images cannot be weighed for {type(look.network).__name__}, an operation of which has no forward-mode "
            f"derivative; use another backbone, or no reweighting ({str(error).splitlines()[0]})"
        ) from error
    return losses, slopes


def _losses(look: Lookahead, parameters: Parameters, images: Tensor, labels: Tensor) -> Tensor:
    """Loss of each row (n,) with these parameters in place of the network's own."""
    still = {name: p.detach() for name, p in look.network.named_parameters() if not p.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in look.network.named_buffers()}
    logits: Tensor = functional_call(look.network, {**still, **buffers, **parameters}, (images,))
    losses = look.losses(logits, labels)
    if losses.shape != labels.shape[:1]:
        raise UserError(
            f"images are weighed by the loss of each, and {len(labels)} of them have losses of shape "
            f'{tuple(losses.shape)}; make the loss with reduction="none"'
        )
    return losses


class _WholeNorms(TorchFunctionMode):
    """Normalisation of half-precision features in float32, rounded back at its end.

    That is what it computes anyway. But where autocast leaves half features to float32 parameters, the
    derivative comes out in float32 (torch 2.13), and the next convolution refuses the mixture.
    """

    norms = (F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in self.norms or not args:
            return func(*args, **(kwargs or {}))
        features, *rest = args
        return func(lifted(features), *rest, **(kwargs or {})).to(features.dtype)


@functools.cache
def _load_derivatives() -> None:
    """Take a first forward derivative: torch then compiles a few more, by a function that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _check_labels(*labels: Tensor) -> None:
    for given in labels:
        if given.is_floating_point():
            raise UserError(
                f"images are weighed by class ids (n,), got probabilities {tuple(given.shape)}; mix images in "
                "another stage"
            )
