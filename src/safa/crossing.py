"""Which layers every path from a network's images to its logits crosses: found by trying, not by reading its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from safa.errors import UserError
from safa.precision import without_autocast


class Crossing:
    """A pass of a few images through a network, and passes in which the rows that enter one layer are changed.

    All are in evaluation mode, without gradients and in the type of the network's parameters; without autocast, unless
    the network runs under that of the caller alone. Modes, statistics, hooks and random numbers stay as they are.
    Layers are named as in ``model.named_modules()``, where ``""`` is the network itself.

    Args:
        model: maps images (n, …) to logits (n, k).
        images: shape (n, …), n at least 2: a shortcut of one row would be added to both rows of a branch.

    Attributes:
        logits: of the images, shape (n, k).
        lowered: what autocast lowers products to in the passes, or None without it.

    Raises:
        UserError: if the model returns anything but logits. What else it fails on passes as it is.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.lowered: torch.dtype | None = None
        try:
            self.logits = self._pass()
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception:  # parameters of several types that only autocast brings together
            if not torch.is_autocast_enabled(images.device.type):
                raise
            self.lowered = torch.get_autocast_dtype(images.device.type)
            self.logits = self._pass()

    def is_crossed(self, name: str, *, exact: bool = True) -> bool:
        """Whether doubling the rows that enter a layer doubles the rows of the logits and, if exact, changes none."""
        doubled = self._changed(name, lambda rows: torch.cat([rows, rows]))
        if doubled is None or doubled.shape != (2 * len(self.logits), *self.logits.shape[1:]):
            return False
        return not exact or self._agree(doubled, torch.cat([self.logits, self.logits]))

    def can_be_mixed(self, name: str) -> bool:
        """Whether the layer is crossed, or its rows swapped swap the logits, in a network that wants just so many."""
        if self.is_crossed(name):
            return True
        turned = self.logits.flip(0)
        if self._agree(self.logits, turned):  # swapped inside a branch that does nothing yet, they would agree as well
            return False
        swapped = self._changed(name, lambda rows: rows.flip(0))
        return swapped is not None and swapped.shape == turned.shape and self._agree(swapped, turned)

    def inputs_of_layers(self) -> dict[str, list[torch.Size | None]]:
        """What enters the layers in one pass of the images, by name, in the order in which they are reached.

        Returns:
            For every call of a layer the shape of its first input, or None where that is no tensor.
        """
        shapes: dict[str, list[torch.Size | None]] = {}

        def record(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
            first = inputs[0] if inputs else None
            shapes.setdefault(name, []).append(first.shape if isinstance(first, Tensor) else None)

        with ExitStack() as hooks:
            for name, module in self.model.named_modules(remove_duplicate=False):
                hooks.enter_context(module.register_forward_pre_hook(partial(record, name)))
            self._pass()
        return shapes

    def _changed(self, name: str, change: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Logits with what enters a layer changed, or None where the network fails on that."""

        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (change(inputs[0]), *inputs[1:])

        try:
            with self.model.get_submodule(name).register_forward_pre_hook(enter):
                return self._pass()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a network raises on rows it did not expect, asserts included
            return None

    def _pass(self) -> Tensor:
        device, types = self.images.device, (p.dtype for p in self.model.parameters() if p.is_floating_point())
        images = self.images
        if images.is_floating_point():  # else token ids, or pixels that the network scales itself
            images = images.to(next(types, images.dtype))
        autocast = torch.autocast(device.type, self.lowered) if self.lowered else without_autocast(images)
        # A network may draw in evaluation too; CUDA's state is read without waiting for the device.
        forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
        with forked, _evaluating(self.model), torch.no_grad(), autocast:
            return logits_of(self.model, self.model(images))

    def _agree(self, found: Tensor, expected: Tensor) -> bool:
        """Whether logits are the same but for rounding in the coarsest type that the network computes in."""
        types = {found.dtype, *(p.dtype for p in self.model.parameters() if p.is_floating_point())}
        coarsest = max(torch.finfo(dtype).eps for dtype in types | {self.lowered or found.dtype})
        rtol = max(1e-2, coarsest**0.5)
        # A logit near 0 is rounded as the large ones beside it are, above all in TF32, which GPUs convolve in.
        largest = self.logits.abs().nan_to_num(posinf=0).amax().item()
        return torch.allclose(found, expected, rtol=rtol, atol=rtol * largest, equal_nan=True)  # half overflows


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
