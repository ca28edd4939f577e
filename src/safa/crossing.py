"""Which layers every path from a network's images to its logits crosses: found by trying, not by reading its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from safa.errors import UserError


class Crossing:
    """A pass of a few images through a network, and passes in which the rows that enter one layer are doubled.

    All are in evaluation mode, without gradients or autocast, and in the type of the network's parameters. Modes,
    statistics, hooks and random numbers stay as they are. Layers are named as in ``model.named_modules()``, where
    ``""`` is the network itself.

    Args:
        model: maps images (n, …) to logits (n, k).
        images: shape (n, …), n at least 2: a shortcut of one row would be added to both rows of a branch.

    Attributes:
        logits: of the images, shape (n, k).

    Raises:
        UserError: if the model returns anything but logits. What else it fails on passes as it is.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.logits = _logits_in_evaluation(model, images)

    def is_crossed(self, name: str, *, exact: bool = True) -> bool:
        """Whether doubling the rows that enter a layer doubles the rows of the logits and, if exact, changes none."""

        def double(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (torch.cat([inputs[0], inputs[0]]), *inputs[1:])

        try:
            with hooked(self.model.get_submodule(name), double):
                doubled = _logits_in_evaluation(self.model, self.images)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a network raises on rows it did not expect, asserts included
            return False
        if doubled.shape != (2 * len(self.logits), *self.logits.shape[1:]):
            return False
        if not exact:
            return True
        rtol = max(1e-2, torch.finfo(doubled.dtype).eps ** 0.5)  # a network in half precision differs by more
        # A logit near 0 is rounded as the large ones beside it are, above all in TF32, which GPUs convolve in.
        largest = self.logits.abs().nan_to_num(posinf=0).amax().item()
        expected = torch.cat([self.logits, self.logits])
        return torch.allclose(doubled, expected, rtol=rtol, atol=rtol * largest, equal_nan=True)  # half overflows


def inputs_of_layers(model: nn.Module, images: Tensor) -> dict[str, list[torch.Size | None]]:
    """What enters the layers in one pass of the images, by name, in the order in which they are reached.

    Returns:
        For every call of a layer the shape of its first input, or None where that is no tensor.
    """
    shapes: dict[str, list[torch.Size | None]] = {}

    def record(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        shapes.setdefault(name, []).append(first.shape if isinstance(first, Tensor) else None)

    with ExitStack() as hooks:
        for name, module in model.named_modules(remove_duplicate=False):
            hooks.enter_context(hooked(module, partial(record, name)))
        _logits_in_evaluation(model, images)
    return shapes


def logits_of(model: nn.Module, returned: Any) -> Tensor:
    """What a model returned, if it is a tensor.

    Raises:
        UserError: if it is anything else.
    """
    if isinstance(returned, Tensor):
        return returned
    raise UserError(
        f"{type(model).__name__} returns {type(returned).__name__}, not logits; "
        "wrap it in a module that returns its logits alone"
    )


@contextmanager
def hooked(layer: nn.Module, hook: Any) -> Iterator[None]:
    """The hook on the layer's input, gone afterwards whatever happens."""
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _logits_in_evaluation(model: nn.Module, images: Tensor) -> Tensor:
    device, types = images.device, (p.dtype for p in model.parameters() if p.is_floating_point())
    if images.is_floating_point():  # else token ids, or pixels that the network scales itself
        images = images.to(next(types, images.dtype))
    # A network may draw in evaluation too; CUDA's state is read without waiting for the device.
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, _evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return logits_of(model, model(images))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and then in the mode it had. Flags are set: ``eval()`` may do more."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
